//! Any bytes as an inference configuration, and what is in it as requirements of pip's: a configuration or an
//! error, never a panic, a hang, or memory without bound; and what a service keeps of it is read again as the
//! same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use triscore::deploy::{InferenceConfig, PythonSpec};
use triscore::environment::Requirements;

fuzz_target!(|file: &[u8]| {
    let Ok(mut config) = InferenceConfig::parse(file) else { return };
    assert!(config.script.is_absolute() && !config.entry_script.as_os_str().is_empty());
    if let PythonSpec::Managed(python) = &config.environment.python
        && let Ok(requirements) = Requirements::of(python)
    {
        // One line each, so that nothing can be smuggled into pip's file.
        let lines = requirements.options.len() + requirements.lines.len();
        assert_eq!(requirements.text().lines().count(), lines);
    }
    let mut again = InferenceConfig::parse(config.to_json().to_string().as_bytes()).expect("it was accepted");
    for config in [&mut config, &mut again] {
        config.warnings.clear();
        config.environment.notes.clear();
    }
    assert_eq!(again, config);
});

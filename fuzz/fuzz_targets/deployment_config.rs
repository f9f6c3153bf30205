//! Any bytes as a deployment file: a configuration within its bounds or an error, never a panic, a hang,
//! or memory without bound; and its keys are not shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use triscore::deploy::{DeploymentConfig, Requirement};

fuzz_target!(|file: &[u8]| {
    let Ok(config) = DeploymentConfig::parse(file) else { return };
    // A service keeps the file as it was read, and reads it again when it is started.
    let kept = serde_json::to_vec(config.raw()).expect("it was read, so it can be written");
    let again = DeploymentConfig::parse(&kept).expect("what was accepted is accepted again");
    assert_eq!(format!("{again:?}"), format!("{config:?}"));
    assert_eq!(Requirement::of(&again), Requirement::of(&config));
    assert!(config.port != Some(0) && config.resources.cpu > 0.0 && config.resources.memory_gb > 0.0);
    let shown = format!("{} {config:?}", config.redacted());
    let mut others = config.raw().clone();
    if let Some(file) = others.as_object_mut() {
        file.remove("keys");
    }
    let others = others.to_string();
    for key in [&config.keys.primary, &config.keys.secondary].into_iter().flatten() {
        // A key that is a word of the file's own, or stands elsewhere in it, is told by its author.
        let own = key.expose().len() < 16 || others.contains(key.expose());
        assert!(own || !shown.contains(key.expose()), "a key is shown: {shown}");
    }
});

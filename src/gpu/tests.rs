use super::*;
use crate::error::ErrorKind;
use std::path::Path;
use std::process::Command;

/// A driver library made of these C functions; `None` where there is no compiler.
fn stub(folder: &Path, source: &str) -> Option<PathBuf> {
    let (c, so) = (folder.join("stub.c"), folder.join("libcuda.so.1"));
    std::fs::write(&c, source).unwrap();
    let cc = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&so).arg(&c).status();
    match cc {
        Ok(status) => {
            assert!(status.success(), "the stub does not compile");
            Some(so)
        }
        Err(_) => {
            eprintln!("skipped: there is no C compiler");
            None
        }
    }
}

/// Five functions, as a driver without extras has them.
fn driver(init: i32, version: i32, devices: i32) -> String {
    format!(
        "int cuInit(unsigned f) {{ return {init}; }}
         int cuDriverGetVersion(int *v) {{ *v = {version}; return 0; }}
         int cuDeviceGetCount(int *n) {{ *n = {devices}; return 0; }}
         int cuDeviceGet(int *d, int i) {{ *d = i + 40; return 0; }}
         int cuDeviceGetName(char *s, int n, int d) {{ s[0] = 'G'; s[1] = '0' + d - 40; s[2] = 0; return 0; }}\n"
    )
}

fn probe(library: impl Into<PathBuf>) -> Result<Vec<Device>> {
    GpuBackend::new().with_library(library).probe()
}

#[test]
fn each_failure_has_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("text.so"), "this is no library, only a long enough text to be read as one.....")
        .unwrap();
    std::fs::write(path("empty.so"), "").unwrap();
    for (name, expected) in [
        ("gone.so", "gone.so not found"),
        ("text.so", "text.so cannot be loaded: "),
        ("empty.so", "empty.so cannot be loaded: "),
        ("", "cannot be loaded: "),
    ] {
        let e = probe(path(name)).expect_err(name);
        assert_eq!(e.kind(), ErrorKind::Unavailable, "{name}");
        assert!(e.to_string().contains(expected), "{name}: {e}");
    }
}

#[test]
fn stub_drivers_are_understood() {
    let named = "int cuGetErrorName(int e, const char **s) { *s = \"CUDA_ERROR_OWN_NAME\"; return 0; }\n";
    let rows = [
        ("int x;\n".to_owned(), "libcuda.so.1 has no function ", "cuInit"),
        (driver(100, 13000, 0), "cuInit of ", "failed: error 100 CUDA_ERROR_NO_DEVICE: no GPU is visible"),
        (driver(999, 13000, 0), "cuInit of ", "failed: error 999 CUDA_ERROR_UNKNOWN"),
        (driver(998, 13000, 0) + named, "cuInit of ", "failed: error 998 CUDA_ERROR_OWN_NAME"),
        (driver(0, 13000, 0), "the driver in ", "sees no GPU"),
        (driver(0, 13000, -1), "the driver in ", "claims -1 GPUs"),
        (driver(0, 13000, 2_000_000_000), "the driver in ", "claims 2000000000 GPUs"),
        (driver(0, 11040, 1), "too old: it speaks CUDA 11.4, and 12.0 is the oldest", "525"),
        (
            driver(0, 13000, 1).replace("*d = i + 40; return 0;", "return 3;"),
            "no GPU can be used: GPU 0: ",
            "error 3",
        ),
    ];
    for (source, expected, also) in rows {
        let dir = tempfile::tempdir().unwrap();
        let Some(library) = stub(dir.path(), &source) else { return };
        let e = probe(library).expect_err(&source);
        assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
        let said = e.to_string();
        assert!(said.contains(expected) && said.contains(also), "expected {expected} … {also}, got {said}");
    }
}

#[test]
fn devices_come_with_what_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let Some(library) = stub(dir.path(), &driver(0, 12040, 2)) else { return };
    let devices = probe(&library).unwrap();
    assert_eq!(devices.iter().map(ToString::to_string).collect::<Vec<_>>(), ["gpu:0 G0", "gpu:1 G1"]);
    let known = [("driver", "CUDA 12.4".to_owned()), ("library", library.display().to_string())];
    let (first, libraries) = devices[1].facts.split_at(2);
    assert_eq!((devices[1].memory_bytes, first), (None, known.as_slice()));
    // Which of them this machine has is its own affair; the driver is one for CUDA 12.
    for ((name, text), expected) in libraries.iter().zip(["nvrtc", "cublaslt", "cudnn"]) {
        assert_eq!(*name, expected);
        let missing = text.starts_with("missing: ") && text.contains("without ") && text.contains("-cu12`");
        let there = text.split_once(" (/").is_some_and(|(version, path)| {
            version.starts_with(|c: char| c.is_ascii_digit()) && path.contains(".so.") && path.ends_with(')')
        });
        assert!(missing || there, "{name}: {text}");
    }
    assert_eq!(libraries.len(), 3);

    let dir = tempfile::tempdir().unwrap();
    let more = "
        int cuDeviceTotalMem_v2(unsigned long *n, int d) { *n = 80000000000ul; return 0; }
        int cuDeviceGetAttribute(int *v, int a, int d) { 
            if (a == 36) { *v = 0; return 0; }
            *v = a == 13 ? 1980000 : a == 37 ? 5120 : a == 38 ? 52428800 : a == 97 ? 232448 : a;
            return a == 75 || a == 76 || a == 16 || *v != a ? 0 : 1; }
        int cuDeviceGetUuid_v2(char *u, int d) { for (int i = 0; i < 16; i++) u[i] = i; return 0; }
        int cuDeviceGetPCIBusId(char *s, int n, int d) { for (int i = 0; i < n; i++) s[i] = 'x'; return 0; }\n";
    let name = "s[0] = 'G'; s[1] = '0' + d - 40; s[2] = 0;";
    let emulated = "for (int i = 0; i < 9; i++) s[i] = \"Emulated\"[i];";
    let source = driver(0, 13000, 1).replace(name, emulated) + more;
    let device = probe(stub(dir.path(), &source).unwrap()).unwrap().remove(0);
    assert_eq!(device.to_string(), "gpu:0 Emulated (emulated)");
    assert_eq!(device.memory_bytes, Some(80_000_000_000));
    let fact = |name| device.facts.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
    assert_eq!(fact("compute capability"), Some("75.76"));
    assert_eq!(fact("multiprocessors"), Some("16"));
    let measures = ["clock", "memory bus width", "L2 cache", "shared memory per block"].map(fact);
    assert_eq!(measures, ["1980 MHz", "5120 bits", "52428800 bytes", "232448 bytes"].map(Some));
    assert_eq!(fact("memory clock"), None, "zero is not told");
    assert_eq!(fact("nvrtc"), None, "an emulated device does without");
    assert_eq!(fact("uuid"), Some("GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"));
    assert_eq!(fact("pci").map(str::len), Some(255), "a text without an end is cut");
}

#[test]
fn one_lost_gpu_does_not_hide_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let source =
        driver(0, 13000, 3).replace("*d = i + 40; return 0;", "*d = i + 40; return i == 1 ? 46 : 0;");
    let Some(library) = stub(dir.path(), &source) else { return };
    let found = probe(library).unwrap().iter().map(|d| d.index).collect::<Vec<_>>();
    assert_eq!(found, [0, 2], "indices stay the driver's");
}

#[test]
fn this_machine_is_probed_without_a_crash() {
    match GpuBackend::new().probe() {
        Ok(devices) => assert!(!devices.is_empty()),
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::Unavailable);
            assert!(e.to_string().len() > 20, "a reason in words: {e}");
        }
    }
}

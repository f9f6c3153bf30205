use super::*;
use crate::error::ErrorKind;
use crate::scoring::BackendKind;

fn device(emulated: bool, facts: &[(&'static str, &str)]) -> Device {
    let facts = facts.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
    Device { backend: BackendKind::Gpu, index: 0, name: "G".to_owned(), memory_bytes: None, emulated, facts }
}

#[test]
fn a_devices_facts_say_what_it_is_compiled_for() {
    let rows = [
        (device(false, &[("compute capability", "9.0"), ("driver", "CUDA 13.0")]), "sm_90a", Some(13)),
        (device(false, &[("compute capability", "8.6"), ("driver", "CUDA 12.4")]), "sm_86", Some(12)),
        (device(false, &[("compute capability", "12.0"), ("driver", "odd")]), "sm_120a", None),
    ];
    for (device, architecture, expected) in rows {
        let images = Images::for_device(&device).unwrap();
        assert_eq!(images.architecture(), architecture);
        assert!(matches!(images.device, Kind::Real { driver, .. } if driver == expected), "{images:?}");
    }
    for (facts, got) in [(&[][..], "got none"), (&[("compute capability", "nine")], "got nine")] {
        let e = Images::for_device(&device(false, facts)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unavailable);
        assert!(e.to_string().contains(got) && e.to_string().contains("gpu:0"), "{e}");
    }
}

#[test]
fn a_devices_facts_say_what_tensor_cores_it_has() {
    let wgmma = |multiprocessors| TensorCores::Wgmma { multiprocessors };
    let mma = |has_float8, multiprocessors| TensorCores::Mma { has_float8, multiprocessors };
    let rows = [
        ("7.5", "40", TensorCores::None),
        ("8.0", "108", mma(false, 108)),
        ("8.6", "84", mma(false, 84)),
        ("8.9", "128", mma(true, 128)),
        ("9.0", "114", wgmma(114)),
        ("9.0", "many", wgmma(132)),
        ("10.0", "148", mma(true, 148)),
    ];
    for (capability, count, expected) in rows {
        for emulated in [false, true] {
            let facts = [("compute capability", capability), ("multiprocessors", count)];
            let images = Images::for_device(&device(emulated, &facts)).unwrap();
            assert_eq!(images.tensor_cores(), expected, "{capability}");
        }
    }
    for (architecture, expected) in [
        ("sm_75", TensorCores::None),
        ("sm_80", mma(false, 132)),
        ("sm_90", mma(true, 132)),
        ("sm_90a", wgmma(132)),
        ("sm_120a", mma(true, 132)),
    ] {
        assert_eq!(
            Images::for_architecture(architecture).unwrap().tensor_cores(),
            expected,
            "{architecture}"
        );
    }
}

#[test]
fn an_emulated_device_takes_the_source() {
    let images = Images::for_device(&device(true, &[])).unwrap();
    assert_eq!(images.architecture(), "emulated");
    assert_eq!(&*images.image("k", "int x;\n").unwrap(), b"// CUDA C++\nint x;\n\0");
}

struct Fake((i32, i32));

impl Compiler for Fake {
    fn version(&self) -> (i32, i32) {
        self.0
    }
}

#[test]
fn each_image_is_compiled_once_and_found_without_a_compiler() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::in_folder(dir.path().join("kernels"));
    let key = Key::new("source", "sm_90a");
    let missing = || Err::<Fake, _>(ScoreError::unavailable("without NVRTC nothing is compiled"));
    let never = |_: Fake| -> Result<Vec<u8>> { panic!("compiled") };
    let made = |bytes: &'static [u8]| move |_: Fake| Ok(bytes.to_vec());
    let some = Some(&cache);

    let e = obtain("k", &key, some, None, missing(), never).unwrap_err();
    assert_eq!((e.kind(), e.at()), (ErrorKind::Unavailable, Some("kernel k")));
    assert!(
        e.message().starts_with("the kernel cache in ") && e.message().ends_with("nothing is compiled"),
        "{e}"
    );
    let e = obtain("k", &key, None, None, missing(), never).unwrap_err();
    assert!(e.message().contains("no kernel cache (TRISCORE_KERNEL_CACHE"), "{e}");
    let e =
        obtain("k", &key, some, None, Ok(Fake((13, 0))), |_| Err(ScoreError::internal("no"))).unwrap_err();
    assert_eq!(
        (e.kind(), dir.path().join("kernels").exists()),
        (ErrorKind::Internal, false),
        "errors are not kept"
    );

    let image = |result: Result<Arc<[u8]>>| String::from_utf8(result.unwrap().to_vec()).unwrap();
    assert_eq!(image(obtain("k", &key, some, None, Ok(Fake((13, 0))), made(b"new"))), "new");
    assert_eq!(image(obtain("k", &key, some, None, Ok(Fake((13, 0))), never)), "new");
    assert_eq!(image(obtain("k", &key, some, None, Ok(Fake((12, 9))), made(b"old"))), "old");
    assert_eq!(image(obtain("k", &key, some, Some(13), missing(), never)), "new");
    assert_eq!(image(obtain("k", &key, some, Some(12), missing(), never)), "old");
    assert_eq!(image(obtain("k", &key, None, None, Ok(Fake((13, 0))), made(b"alone"))), "alone");
}

#[test]
fn nvrtc_makes_images_that_the_cache_gives_back() {
    if let Err(e) = Nvrtc::ready(None) {
        return eprintln!("skipped (scripts/setup-python.sh gpu installs it): {e}");
    }
    let dir = tempfile::tempdir().unwrap();
    let images = Images {
        tensor_cores: TensorCores::Mma { has_float8: false, multiprocessors: 1 },
        architecture: "sm_90a".to_owned(),
        device: Kind::Real { driver: None, cache: Some(Cache::in_folder(dir.path().to_owned())) },
    };
    let source = "extern \"C\" __global__ void k(float* x) { x[0] = 1.0f; }";
    let first = images.image("k", source).unwrap();
    assert!(first.starts_with(b"\x7fELF"));
    let files = dir.path().read_dir().unwrap().count();
    assert_eq!((images.image("k", source).unwrap(), files), (first, 1));
    let e = images.image("k", "not C++").unwrap_err();
    assert_eq!((e.kind(), e.at()), (ErrorKind::Internal, Some("kernel k")));
}

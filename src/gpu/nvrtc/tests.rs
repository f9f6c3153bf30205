use super::*;
use crate::error::ErrorKind;

const KERNEL: &str = r#"
extern "C" __global__ void add_one(float* out, const float* in, int n) {
    __shared__ float tile[256];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) tile[threadIdx.x] = in[i];
    __syncthreads();
    if (i < n) out[i] = tile[255 - threadIdx.x] + 1.0f;
}
extern "C" __global__ void nothing() {}
"#;

/// NVRTC, or `None` and a line that says so.
fn nvrtc() -> Option<&'static Nvrtc> {
    Nvrtc::ready(None).map_err(|e| eprintln!("skipped (scripts/setup-python.sh gpu installs it): {e}")).ok()
}

#[test]
fn capabilities_have_architectures() {
    let rows = [
        ((7, 0), "sm_70"),
        ((7, 5), "sm_75"),
        ((8, 0), "sm_80"),
        ((8, 9), "sm_89"),
        ((9, 0), "sm_90a"),
        ((10, 3), "sm_103a"),
        ((12, 1), "sm_121a"),
    ];
    for (capability, expected) in rows {
        assert_eq!(architecture(capability), expected);
    }
}

#[test]
fn a_log_is_cut_to_what_is_wrong() {
    let long = format!("error: {}", "x".repeat(1000));
    let many = "error\n".repeat(100);
    let rows = [
        ("a.cu(1): warning: unused\n\na.cu(2): error: no\n  int\n", "a.cu(2): error: no\n  int"),
        ("\n only words\n", " only words"),
        ("", ""),
        (&long, &long[..MOST_CHARACTERS]),
        (&many, "error\nerror\nerror\nerror\nerror\nerror\nerror\nerror"),
    ];
    for (log, expected) in rows {
        assert_eq!(excerpt(log), expected);
    }
}

#[test]
fn sources_become_machine_code_for_each_architecture() {
    let Some(nvrtc) = nvrtc() else { return };
    assert!(version().unwrap() >= (12, 0));
    for architecture in ["sm_80", "sm_90a", "sm_120a"] {
        let number: c_int = architecture.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        if !nvrtc.supported.contains(&number) {
            eprintln!("skipped: NVRTC {} is too old for {architecture}", nvrtc.version());
            continue;
        }
        let cubin = compile("add", KERNEL, architecture).unwrap();
        assert!(cubin.bytes.starts_with(b"\x7fELF") && !cubin.is_ptx, "{architecture}");
        let mut usage = cubin.usage;
        usage.sort_by(|a, b| a.kernel.cmp(&b.kernel));
        let [add, nothing] = usage.as_slice() else { panic!("two kernels, got {usage:?}") };
        assert_eq!((add.kernel.as_str(), nothing.kernel.as_str()), ("add_one", "nothing"));
        assert!(add.shared_bytes >= 1024 && add.registers > 2, "{add:?}");
        assert_eq!((add.spilled_bytes, nothing.spilled_bytes), (0, 0));
    }
}

#[test]
fn a_device_from_the_future_gets_text_and_one_from_the_past_a_reason() {
    let Some(nvrtc) = nvrtc() else { return };
    let newest = nvrtc.supported.iter().max().unwrap();
    let text = compile("add", KERNEL, "sm_990a").unwrap();
    assert!(text.is_ptx && text.usage.is_empty());
    let words = String::from_utf8(text.bytes).unwrap();
    assert!(words.contains(&format!(".target sm_{newest}")) && words.ends_with('\0'), "{words}");
    let rows = [
        ("sm_20", ErrorKind::Unsupported, "no longer compiles for sm_20: install an older one"),
        ("compute_90", ErrorKind::Internal, "expected an architecture like sm_90a, got 'compute_90'"),
        ("sm_", ErrorKind::Internal, "got 'sm_'"),
        ("", ErrorKind::Internal, "got ''"),
    ];
    for (architecture, kind, expected) in rows {
        let e = compile("add", KERNEL, architecture).unwrap_err();
        assert_eq!(e.kind(), kind, "{architecture}");
        assert!(e.to_string().starts_with("kernel add: ") && e.to_string().contains(expected), "{e}");
    }
}

#[test]
fn what_does_not_compile_is_told_with_its_line() {
    let Some(_) = nvrtc() else { return };
    let rows = [
        ("__global__ void k() {\n  int x = nobody;\n}", "does not compile for sm_90a: broken.cu(2): error"),
        ("#include <no_such_header.h>", "no_such_header.h"),
        (
            "extern \"C\" __global__ void k() { asm(\"no such instruction;\"); }",
            "does not compile for sm_90a: ptxas",
        ),
        ("extern \"C\" __global__ void k() {}\0", "the source has a zero in it"),
    ];
    for (source, expected) in rows {
        let e = compile("broken", source, "sm_90a").unwrap_err();
        assert_eq!((e.kind(), e.at()), (ErrorKind::Internal, Some("kernel broken")));
        assert!(e.message().contains(expected), "expected {expected}, got {e}");
    }
}

#[test]
fn many_are_compiled_at_once() {
    let Some(_) = nvrtc() else { return };
    let one = compile("add", KERNEL, "sm_90a").unwrap().bytes;
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| compile("add", KERNEL, "sm_90a").unwrap().bytes)).collect();
        for thread in threads {
            assert!(thread.join().unwrap() == one, "the same source gives the same bytes");
        }
    });
}

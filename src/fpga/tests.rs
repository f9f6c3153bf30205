use super::*;
use crate::error::ErrorKind;
use std::path::Path;
use std::process::Command;

/// An OpenCL library made of C; `None` where there is no compiler.
fn stub(folder: &Path, source: &str) -> Option<PathBuf> {
    let (c, so) = (folder.join("stub.c"), folder.join("libOpenCL.so.1"));
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

/// One platform, called so, with these devices: type, name, and whether they are available.
fn opencl(platform: &str, devices: &[(u64, &str, u32)]) -> String {
    let rows = devices.iter().map(|(kind, name, free)| format!("{{{kind}, \"{name}\", {free}}},"));
    let (rows, count) = (rows.collect::<String>(), devices.len());
    format!(
        "#include <string.h>
         static struct {{ unsigned long kind; const char *name; unsigned free; }} all[] = {{ {rows} {{0, 0, 0}} }};
         static int give(const void *from, size_t n, size_t room, void *to, size_t *size) {{
             if (size) *size = n;
             if (!to) return 0;
             if (room < n) return -30;
             memcpy(to, from, n);
             return 0;
         }}
         int clGetPlatformIDs(unsigned n, void **ids, unsigned *count) {{ ids[0] = all; *count = 1; return 0; }}
         int clGetPlatformInfo(void *p, unsigned what, size_t room, void *to, size_t *size) {{
             return give(\"{platform}\", sizeof \"{platform}\", room, to, size);
         }}
         int clGetDeviceIDs(void *p, unsigned long kinds, unsigned n, void **ids, unsigned *count) {{
             for (int i = 0; i < {count}; i++) ids[i] = all + i;
             *count = {count};
             return {count} ? 0 : -1;
         }}
         int clGetDeviceInfo(void *d, unsigned what, size_t room, void *to, size_t *size) {{
             typeof(all[0]) *it = d;
             unsigned long memory = 4096;
             switch (what) {{
             case 0x1000: return give(&it->kind, 8, room, to, size);
             case 0x101F: return give(&memory, 8, room, to, size);
             case 0x1027: return give(&it->free, 4, room, to, size);
             case 0x102B: return give(it->name, strlen(it->name) + 1, room, to, size);
             case 0x102D: return give(\"1.2.3\", 6, room, to, size);
             case 0x102F: return give(\"OpenCL 1.2 x\", 13, room, to, size);
             default: return -30;
             }}
         }}\n"
    )
}

fn probe(library: impl Into<PathBuf>) -> Result<Vec<Device>> {
    FpgaBackend::new().with_library(library).probe()
}

const CPU: u64 = 2;
const GPU: u64 = 4;
const BOARD: u64 = 8;

#[test]
fn boards_come_first_and_stand_ins_are_flagged() {
    let dir = tempfile::tempdir().unwrap();
    let all =
        [(CPU, "a cpu", 1), (BOARD, "FPGA Emulation Device", 1), (GPU, "a gpu", 1), (BOARD, "a board", 1)];
    let Some(library) = stub(dir.path(), &opencl("Vendor", &all)) else { return };
    let devices = probe(&library).unwrap();
    let shown = devices.iter().map(ToString::to_string).collect::<Vec<_>>();
    let expected = ["fpga:0 a board", "fpga:1 a cpu (emulated)", "fpga:2 FPGA Emulation Device (emulated)"];
    assert_eq!(shown, expected);
    let facts = [
        ("platform", "Vendor".to_owned()),
        ("opencl", "OpenCL 1.2 x".to_owned()),
        ("driver", "1.2.3".to_owned()),
        ("library", library.display().to_string()),
        ("opencl device", "0.3".to_owned()),
    ];
    assert_eq!((devices[0].memory_bytes, devices[0].facts.as_slice()), (Some(4096), facts.as_slice()));
}

#[test]
fn each_failure_has_its_reason() {
    let board = opencl("Vendor", &[(BOARD, "a board", 1)]);
    let rows = [
        ("int x;\n".to_owned(), "has no function clGetPlatformIDs"),
        (
            board.replace("*count = 1; return 0;", "return -1001;"),
            "is there, and no OpenCL driver (ICD) is registered",
        ),
        (
            board.replace("*count = 1; return 0;", "*count = 0; return 0;"),
            "no OpenCL driver (ICD) is registered",
        ),
        (board.replace("*count = 1; return 0;", "return -6;"), "failed: error -6 CL_OUT_OF_HOST_MEMORY"),
        (board.replace("return 1 ? 0 : -1;", "return -5;"), "'Vendor' does not list its devices: error -5"),
        (opencl("Vendor", &[]), "'Vendor' has no device"),
        (opencl("Vendor", &[(GPU, "a card", 1)]), "'Vendor' has 'a card', which is a GPU"),
        (opencl("Vendor", &[(BOARD, "a board", 0)]), "which is not available now: is the board programmed"),
        (board.replace("case 0x1000:", "case 0x9999:"), "has 'a board' without a type: error -30"),
        (board.replace("give(&it->kind, 8,", "give(&it->kind, 3,"), "a number of 3 bytes"),
        (board.replace("case 0x102B:", "case 0x9999:"), "has a device without a name"),
    ];
    for (source, expected) in rows {
        let dir = tempfile::tempdir().unwrap();
        let Some(library) = stub(dir.path(), &source) else { return };
        let e = probe(library).expect_err(expected);
        assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
        assert!(e.to_string().contains(expected), "expected {expected}, got {e}");
    }
    let dir = tempfile::tempdir().unwrap();
    for (name, content, expected) in [
        ("gone.so", None, "gone.so not found"),
        ("text.so", Some("no library"), "text.so cannot be loaded: "),
    ] {
        let path = dir.path().join(name);
        if let Some(text) = content {
            std::fs::write(&path, text).unwrap();
        }
        let e = probe(&path).unwrap_err();
        assert!(e.kind() == ErrorKind::Unavailable && e.to_string().contains(expected), "{e}");
    }
}

#[test]
fn this_machine_is_probed_without_a_crash() {
    match FpgaBackend::new().probe() {
        Ok(devices) => assert!(devices.iter().map(|d| d.emulated).is_sorted(), "boards first: {devices:?}"),
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::Unavailable);
            assert!(e.to_string().len() > 20, "a reason in words: {e}");
        }
    }
}

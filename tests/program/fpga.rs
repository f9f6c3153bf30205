//! Binaries of the FPGA engine: made, checked, run from, and refused with the reason when they are not what they should be.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::home::{Home, Ran, json_file, models};
use super::http::{digit, digit_of};

/// A home with devices, an engine's binary for the first one, and a quantised model.
fn made(options: &[&str]) -> Option<(Home, PathBuf, PathBuf)> {
    let home = Home::with_fpgas(1)?;
    let (binary, model) = (home.path("engine.bin"), home.path("digits.onnx"));
    let at = ["fpga", "build", "-o", binary.to_str().unwrap()];
    home.ok(&[&at, options].concat());
    let (float, data) = (models("digits_cnn"), models("digits_cnn/heldout.npz"));
    home.ok(&["quantize", &float, "--calibrate", &data, "--samples", "32", "-o", model.to_str().unwrap()]);
    Some((home, binary, model))
}

/// Scores a digit, by a process that may not build kernels.
fn score(home: &Home, model: &Path, binary: Option<&Path>) -> Ran {
    let (body, label) = digit();
    let (input, out) = (home.file("in.json", &body), home.path("out.json"));
    let _ = fs::remove_file(&out);
    let (model, to) = (model.to_str().unwrap(), out.to_str().unwrap());
    let args = ["score", model, "--backend", "fpga", "--allow-emulation", "--input", &input, "--output", to];
    let mut command = home.command(&args);
    command.env("TRISCORE_FPGA_BINARY_ONLY", "1");
    if let Some(binary) = binary {
        command.env("TRISCORE_FPGA_BINARY", binary);
    }
    let ran = home.finish(command);
    if ran.code == 0 {
        let answer = json_file(&out);
        assert_eq!(digit_of(&json!({ "logits": [answer["outputs"][0]["data"]] })), label, "{answer:#}");
    }
    ran
}

/// Changes a manifest.
fn rewrite(binary: &Path, change: impl Fn(&mut Value)) {
    let path = triscore::fpga::manifest_path(binary);
    let mut manifest = json_file(&path);
    change(&mut manifest);
    fs::write(path, manifest.to_string()).unwrap();
}

#[test]
fn models_run_from_a_binary_as_from_the_sources() {
    // Of another size than what is built by default: the planner counts with what the manifest says.
    let Some((home, binary, model)) = made(&["--rows", "5", "--depth", "1024"]) else { return };
    let checked = home.json(&["fpga", "check", binary.to_str().unwrap()]);
    assert_eq!((&checked["manifest"]["rows"], &checked["manifest"]["depth"]), (&json!(5), &json!(1024)));
    let ran = score(&home, &model, Some(&binary));
    assert_eq!(ran.code, 0, "{ran:#?}");
    score(&home, &model, None).failed(69, &["must not build kernels", "TRISCORE_FPGA_BINARY"]);

    let folder = home.path("sources");
    let sources = home.json(&["fpga", "sources", "-o", folder.to_str().unwrap(), "--rows", "32"]);
    assert!(sources["options"].as_str().unwrap().contains("-DROWS=32"));
    assert!(
        fs::read_to_string(folder.join("engine.cl")).unwrap().contains("FPGA_TASK matrix(ENGINE_ARGUMENTS)")
    );
}

#[test]
fn a_binary_loads_within_a_tenth_of_a_second() {
    let Some((home, binary, _)) = made(&[]) else { return };
    let load = || home.json(&["fpga", "check", binary.to_str().unwrap(), "--in-this-process"]);
    let loads = (0..5).map(|_| load()).collect::<Vec<_>>();
    let best_ms = loads.iter().filter_map(|l| l["loadMs"].as_f64()).fold(f64::INFINITY, f64::min);
    println!("an engine of {} bytes loads in {best_ms:.1} ms", fs::metadata(&binary).unwrap().len());
    // Intel's emulator takes most of that time to start its threads, once a process.
    if loads[0]["manifest"]["platform"] == "Portable Computing Language" {
        assert!(best_ms <= 100.0, "{best_ms} ms");
    }
}

#[test]
fn binaries_that_are_not_what_they_should_be_are_refused_before_a_driver_sees_them() {
    let Some((home, good, model)) = made(&[]) else { return };
    let manifest = |p: &Path| triscore::fpga::manifest_path(p);
    type Damage = fn(&Path);
    let rows: [(&str, i32, &str, Damage); 12] = [
        ("truncated", 78, "is damaged or another one", |p| {
            let bytes = fs::read(p).unwrap();
            fs::write(p, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("flipped", 78, "is damaged or another one", |p| {
            let mut bytes = fs::read(p).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(p, bytes).unwrap();
        }),
        ("empty", 78, "0 bytes of SHA-256", |p| fs::write(p, "").unwrap()),
        ("gone", 66, "cannot read", |p| fs::remove_file(p).unwrap()),
        ("no manifest", 66, "no manifest", |p| fs::remove_file(triscore::fpga::manifest_path(p)).unwrap()),
        ("no JSON", 78, "is no manifest of an engine", |p| {
            fs::write(triscore::fpga::manifest_path(p), "\u{7f}ELF").unwrap();
        }),
        ("a huge manifest", 65, "at most 65536 are read", |p| {
            fs::write(triscore::fpga::manifest_path(p), vec![b' '; 1 << 17]).unwrap();
        }),
        ("another format", 78, "expected 'triscore-fpga-engine'", |p| {
            rewrite(p, |m| m["format"] = "aocx".into())
        }),
        ("another version", 78, "build the binary anew", |p| rewrite(p, |m| m["abiVersion"] = 77.into())),
        ("an impossible size", 78, "is not possible", |p| rewrite(p, |m| m["depth"] = 17.into())),
        ("another device", 78, "the binary is for 'a board'", |p| {
            rewrite(p, |m| m["device"] = "a board".into())
        }),
        ("another platform", 78, "take the binary of this device", |p| {
            rewrite(p, |m| m["platform"] = "x".into())
        }),
    ];
    for (what, code, reason, damage) in rows {
        let bad = home.path("bad.bin");
        fs::copy(&good, &bad).unwrap();
        fs::copy(manifest(&good), manifest(&bad)).unwrap();
        damage(&bad);
        println!("{what}");
        home.fails(&["fpga", "check", bad.to_str().unwrap()], code, &[reason]);
        score(&home, &model, Some(&bad)).failed(code, &[reason]);
    }
    assert_eq!(score(&home, &model, Some(&good)).code, 0, "the device is as good as before");
}

#[test]
fn what_leaves_a_doubt_is_tried_by_another_process() {
    let Some((home, good, model)) = made(&[]) else { return };
    // The same driver under another version: it loads, and is then taken.
    rewrite(&good, |m| m["driver"] = "0.9".into());
    let ran = score(&home, &model, Some(&good));
    assert_eq!(ran.code, 0, "{ran:#?}");

    // Garbage that its manifest vouches for: whatever the driver does with it, it is another process that it does it to.
    let garbage = home.path("garbage.bin");
    let bytes = fs::read(&good).unwrap();
    let half =
        bytes.iter().enumerate().map(|(i, b)| if i > 64 { b ^ (i as u8) } else { *b }).collect::<Vec<_>>();
    fs::write(&garbage, half).unwrap();
    home.ok(&["fpga", "manifest", garbage.to_str().unwrap()]);
    // Where no size is said, a binary is described as it is built.
    let rows = |binary: &Path| json_file(triscore::fpga::manifest_path(binary))["rows"].clone();
    assert_eq!(rows(&garbage), rows(&good));
    rewrite(&garbage, |m| m["driver"] = "0.9".into());
    score(&home, &model, Some(&garbage))
        .failed(69, &["made with driver '0.9'", "a process that tried to load it failed"]);
    home.fails(&["fpga", "check", garbage.to_str().unwrap()], 69, &["garbage.bin"]);
    assert_eq!(score(&home, &model, Some(&good)).code, 0, "the device is as good as before");
}

#[test]
fn a_board_that_is_not_there_is_estimated_and_said_to_be() {
    let home = Home::new();
    let (model, plot) = (home.path("digits.onnx"), home.path("roofline.svg"));
    let (float, data) = (models("digits_res"), models("digits_res/heldout.npz"));
    home.ok(&["quantize", &float, "--calibrate", &data, "--samples", "32", "-o", model.to_str().unwrap()]);
    let model = model.to_str().unwrap();
    let mut rates = Vec::new();
    for board in ["arria10", "u250", "u55c", "agilex7"] {
        let found = home.json(&["inspect", model, "--fpga-board", board, "--batch", "8"]);
        assert_eq!((&found["estimated"], &found["board"]["name"]), (&json!(true), &json!(board)));
        assert!(found["note"].as_str().unwrap().contains("nothing of it was measured"), "{found:#}");
        let of = |list: &str, name: &str| {
            found[list].as_array().unwrap().iter().map(|l| l[name].as_f64().unwrap()).sum::<f64>()
        };
        // The whole is its layers, and no layer is faster than the array.
        assert!((of("layers", "timeUs") / found["timeUs"].as_f64().unwrap() - 1.0).abs() < 1e-9);
        assert!(found["gops"].as_f64().unwrap() < found["peakGops"].as_f64().unwrap());
        assert!(found["engine"]["fits"].as_bool().unwrap() && !found["sizes"].as_array().unwrap().is_empty());
        assert!(found["engine"]["dspBlocks"].as_u64() < found["board"]["dspBlocks"].as_u64());
        rates.push(found["rowsPerS"].as_f64().unwrap());
    }
    assert!(rates[1..].iter().all(|r| *r > rates[0]), "the oldest board is the slowest: {rates:?}");
    let shown = ["inspect", model, "--fpga-board", "u250", "--roofline", plot.to_str().unwrap()];
    let text = home.ok(&shown).out;
    for words in ["ESTIMATED", "DS962", "MHz assumed", "matrix"] {
        assert!(text.contains(words), "{words} in {text}");
    }
    let svg = fs::read_to_string(plot).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("estimated") && svg.contains("<circle"), "{svg}");
    for (args, code, words) in [
        (&[model, "--fpga-board", "u999"][..], 78, &["expected one of", "arria10", "agilex7"][..]),
        (&[model, "--fpga-board", "u250", "--batch", "0"], 78, &["--batch 0"]),
        (&[&float, "--fpga-board", "u250"], 69, &["triscore quantize"]),
        (&[model, "--batch", "8"], 2, &["--fpga-board"]),
    ] {
        home.fails(&[&["inspect"], args].concat(), code, words);
    }
}

/// A compiler that notes what it is called with, and what it was given.
fn compiler(home: &Home, name: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let notes = home.path("notes");
    fs::create_dir_all(&notes).unwrap();
    let text = "#!/bin/sh\necho \"$(basename $0) $*\" >> NOTES/calls\nfor a in \"$@\"; do case $a in *engine.cl) cp \"$a\" NOTES ;; esac; done\n";
    let path =
        PathBuf::from(home.file(&format!("bin/{name}"), text.replace("NOTES", notes.to_str().unwrap())));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    notes
}

#[test]
fn the_script_for_boards_gives_the_compilers_the_sources_and_the_size() {
    let home = Home::new();
    let script = |args: &[&str]| {
        let mut command = std::process::Command::new("bash");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/build-fpga-binary.sh")).args(args);
        command.env("TRISCORE", env!("CARGO_BIN_EXE_triscore"));
        command.env("PATH", format!("{}:/usr/bin:/bin", home.path("bin").display()));
        home.finish(command)
    };
    script(&["intel", "pac_a10"]).failed(2, &["BOARD", "ROWS"]);
    script(&["intel", "pac_a10", "engine.aocx"]).failed(69, &["no aoc on the PATH"]);
    let notes = compiler(&home, "aoc");
    compiler(&home, "v++");
    let ran = script(&["intel", "pac_a10", "engine.aocx", "32"]);
    assert!(ran.code == 0 && ran.out.contains("triscore fpga manifest engine.aocx"), "{ran:#?}");
    let ran = script(&["xilinx", "u250", "engine.xclbin", "32", "1024"]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let calls = fs::read_to_string(notes.join("calls")).unwrap();
    assert!(calls.starts_with("aoc -board=pac_a10 -DROWS=32 -DK_CAPACITY=4608 "), "{calls}");
    for kernel in ["matrix", "pack", "depthwise", "elementwise", "move", "pool", "softmax", "layer_norm"] {
        assert!(calls.contains(&format!("-k {kernel} -DROWS=32 -DK_CAPACITY=1024")), "{kernel}: {calls}");
    }
    assert_eq!(calls.matches("v++ -l ").count(), 1, "{calls}");
    assert!(fs::read_to_string(notes.join("engine.cl")).unwrap().contains("FPGA_TASK matrix"));
}

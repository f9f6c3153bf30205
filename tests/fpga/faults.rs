//! What goes wrong on a device: a reason, the process alive, and the device usable afterwards or reported lost.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use triscore::fpga::Tile;
use triscore::int8::{QParams, QType};
use triscore::{Backend, Call, CompileOptions, DType, Device, ErrorKind, Health, Model, Tensor};

use super::model::Builder;
use super::{FpgaBackend, devices, heldout, quantized};

/// Runs a test again in a process of its own, which may hang, crash, or need another environment. `None` inside of it.
fn in_own_process(test: &str, environment: &[(&str, &str)]) -> Option<String> {
    const INSIDE: &str = "TRISCORE_TEST_INSIDE";
    if std::env::var(INSIDE).is_ok_and(|name| name == test) {
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([&format!("faults::{test}"), "--exact", "--nocapture"]).env(INSIDE, test);
    let ran = command.envs(environment.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{}: {said}{}", ran.status, String::from_utf8_lossy(&ran.stderr));
    Some(said)
}

/// Ends the process without what drivers tidy up at an orderly end: a thread of theirs may hang.
fn end(said: &str) -> ! {
    use std::io::Write;
    println!("{said}");
    std::io::stdout().flush().unwrap();
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) }
}

/// An engine of changed sources, or of more options, as a binary.
fn changed_engine(device: &Device, path: &Path, change: impl Fn(String) -> String, more: &str) {
    use opencl3::{context::Context, device::CL_DEVICE_TYPE_ALL, platform, program::Program};
    let (source, options) = FpgaBackend::sources(Tile::default());
    let (_, place) = device.facts.iter().find(|(name, _)| *name == "opencl device").unwrap();
    let (platform, at) = place.split_once('.').unwrap();
    let platform = platform::get_platforms().unwrap()[platform.parse::<usize>().unwrap()];
    let id = platform.get_devices(CL_DEVICE_TYPE_ALL).unwrap()[at.parse::<usize>().unwrap()];
    let context = Context::from_device(&opencl3::device::Device::new(id)).unwrap();
    let mut program = Program::create_from_source(&context, &change(source)).unwrap();
    if program.build(&[id], &format!("{options} {more}")).is_err() {
        panic!("{}", program.get_build_log(id).unwrap());
    }
    std::fs::write(path, &program.get_binaries().unwrap()[0]).unwrap();
    FpgaBackend::new().describe(device, Tile::default(), path).unwrap();
    std::mem::forget((program, context));
}

/// The sources with a statement at the head of the matrix kernel.
fn with_statement(source: &str, statement: &str) -> String {
    let head = "FPGA_TASK matrix(ENGINE_ARGUMENTS)\n{";
    assert!(source.contains(head));
    source.replace(head, &format!("{head}\n    {statement}"))
}

#[test]
fn requantisation_without_floats_equals_the_one_with_them() {
    let test = "requantisation_without_floats_equals_the_one_with_them";
    if let Some(said) = in_own_process(test, &[]) {
        return println!("{said}");
    }
    let Some(device) = devices().into_iter().next() else { end("skipped: no device") };
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("engine.bin");
    changed_engine(&device, &binary, |source| source, "-DINTEGER_REQUANT");
    let fpga = FpgaBackend::new().with_binary(&binary);
    let failures = super::mismatches(&fpga, &device, super::cases_each() / 3);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    end("every operator equals the reference with requantisation in integers")
}

#[test]
fn a_kernel_that_writes_outside_is_caught_by_guards() {
    let test = "a_kernel_that_writes_outside_is_caught_by_guards";
    if let Some(said) = in_own_process(test, &[]) {
        return println!("{said}");
    }
    let Some(device) = devices().into_iter().next() else { end("skipped: no device") };
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("engine.bin");
    let outside = "if (first < last) arena[OFFSET(M_Y) - 1] = 7;";
    changed_engine(&device, &binary, |source| with_statement(&source, outside), "");
    let model = quantized("digits_mlp");
    let fpga = FpgaBackend::new().with_binary(&binary).guarded();
    let e = fpga.compile(&model, std::slice::from_ref(&device), &CompileOptions::default()).unwrap_err();
    assert!(e.kind() == ErrorKind::DeviceLost && e.to_string().contains("a kernel wrote at byte"), "{e}");
    end(&format!("{device}: {e}"))
}

#[test]
fn a_kernel_that_hangs_is_a_lost_device_and_not_a_lost_process() {
    if let Some(said) = in_own_process(
        "a_kernel_that_hangs_is_a_lost_device_and_not_a_lost_process",
        &[("TRISCORE_FPGA_HANG_S", "1.5")],
    ) {
        return println!("{said}");
    }
    let Some(device) = devices().into_iter().next() else { end("skipped: no device") };
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("engine.bin");
    let hang = "volatile int hangs = first < last && WORD(M_PIXELS) == 7;\n    while (hangs) ;";
    changed_engine(&device, &binary, |source| with_statement(&source, hang), "");
    let (model, x) = (quantized("digits_mlp"), heldout("digits_mlp"));
    let options = CompileOptions { lanes: Some(1), ..CompileOptions::default() };
    let fpga = FpgaBackend::new().with_binary(&binary);
    let scorer = fpga.compile(&model, std::slice::from_ref(&device), &options).unwrap();
    let score = |rows: usize, call: Call| scorer.score(&[x.rows(0, 0..rows).unwrap()], &call);
    score(3, Call::new()).unwrap();
    // A caller whose time is up goes; whoever comes next finds out.
    let begin = Instant::now();
    let late = score(7, Call::new().with_timeout(Duration::from_millis(100))).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::DeadlineExceeded);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    let lost = score(3, Call::new()).unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::DeviceLost, "{lost}");
    assert!(
        lost.to_string().contains("hangs") && lost.to_string().contains("TRISCORE_FPGA_HANG_S"),
        "{lost}"
    );
    // Sticky: at once, with the first reason.
    let begin = Instant::now();
    let again = score(3, Call::new()).unwrap_err();
    assert!(again.kind() == ErrorKind::DeviceLost && again.to_string().contains("hangs"), "{again}");
    assert!(begin.elapsed() < Duration::from_millis(100));
    assert!(matches!(scorer.health(), Health::Lost { .. }), "{:?}", scorer.health());
    drop(scorer);
    // Another engine for the same device, in the same process, would take this one's memory along.
    let other = FpgaBackend::new().binary_only().compile(&model, std::slice::from_ref(&device), &options);
    assert!(other.unwrap_err().to_string().contains("runs another engine in this process"));
    end(&format!("{device}: {lost}"))
}

#[test]
fn a_batch_that_does_not_fit_is_told_and_smaller_ones_are_scored() {
    let test = "a_batch_that_does_not_fit_is_told_and_smaller_ones_are_scored";
    if let Some(said) = in_own_process(test, &[("POCL_MEMORY_LIMIT", "1")]) {
        return println!("{said}");
    }
    let found = devices().into_iter().find(|d| d.memory_bytes.is_some_and(|b| b <= 1 << 30));
    let Some(device) = found else { end("skipped: no device that has little memory") };
    let (model, x) = (quantized("digits_res"), heldout("digits_res"));
    // Without a batch axis nothing may be cut into pieces.
    let options = CompileOptions { lanes: Some(1), skip_tuning: true, ..CompileOptions::default() };
    let scorer = FpgaBackend::new().compile(&model, std::slice::from_ref(&device), &options).unwrap();
    let few = [x.rows(0, 0..3).unwrap()];
    let right = scorer.score(&few, &Call::new()).unwrap();
    let hundred = x.rows(0, 0..100).unwrap();
    let many = Tensor::concat(0, &vec![&hundred; 1000]).unwrap();
    for _ in 0..3 {
        let e = scorer.score(std::slice::from_ref(&many), &Call::new()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::OutOfMemory, "{e}");
        assert!(e.to_string().contains("bytes"), "{e}");
        let after = scorer.score(&few, &Call::new()).unwrap();
        assert_eq!(after.tensor(0).unwrap().as_bytes(), right.tensor(0).unwrap().as_bytes());
    }
    assert_eq!(scorer.health(), Health::Ready);
    end(&format!("{device}: a batch too large is refused, and the next one scored"))
}

/// A product between Q/DQ pairs, with parameters as they come.
fn product(x_scale: f32, w_scale: &[f32], depth: usize, weight: i8) -> Model {
    let mut b = Builder::default();
    b.input("x", DType::F32, &[2, depth]);
    let one = |v: f32| Tensor::from_slice(&[], &[v]).unwrap();
    let zeros = Tensor::from_slice(&[w_scale.len()], &vec![0i8; w_scale.len()]).unwrap();
    let (s, z) = (b.constant("s", &one(x_scale)), b.constant("z", &Tensor::from_slice(&[], &[0u8]).unwrap()));
    let t = b.constant("t", &one(1000.0));
    let ws = b.constant("ws", &Tensor::from_slice(&[w_scale.len()], w_scale).unwrap());
    let wz = b.constant("wz", &zeros);
    let w = b.constant("w", &Tensor::from_slice(&[depth, 2], &vec![weight; depth * 2]).unwrap());
    b.node("QuantizeLinear", &["x", &s, &z], "q", vec![]);
    b.node("DequantizeLinear", &["q", &s, &z], "f", vec![]);
    b.node("DequantizeLinear", &[&w, &ws, &wz], "v", vec![super::model::int("axis", 1)]);
    b.node("MatMul", &["f", "v"], "p", vec![]);
    b.node("QuantizeLinear", &["p", &t, &z], "r", vec![]);
    b.node("DequantizeLinear", &["r", &t, &z], "y", vec![]);
    b.output("y", DType::F32);
    b.build()
}

#[test]
fn parameters_that_make_no_sense_are_refused_when_the_model_is_loaded() {
    let Some(device) = devices().into_iter().next() else { return };
    let (fpga, one) = (FpgaBackend::new(), std::slice::from_ref(&device));
    let compile = |model: &Model| fpga.compile(model, one, &CompileOptions::default());
    let rows = [
        ("zero", product(0.0, &[0.5], 8, 3), ErrorKind::BadModel, "scale 0 is 0e0"),
        ("negative", product(-1.0, &[0.5], 8, 3), ErrorKind::BadModel, "scale 0 is -1e0"),
        ("not a number", product(f32::NAN, &[0.5], 8, 3), ErrorKind::BadModel, "scale 0 is NaN"),
        ("of weights", product(1.0, &[0.5, f32::INFINITY], 8, 3), ErrorKind::BadModel, "scale 1 is inf"),
        ("lengths", product(1.0, &[0.5; 3], 8, 3), ErrorKind::BadModel, "3 scales along axis 1 of length 2"),
        // 255 · 127 · 70,000 is above 2³¹.
        ("a sum of more than 32 bits", product(1.0, &[0.5], 70_000, 127), ErrorKind::Unsupported, "32 bits"),
    ];
    for (what, model, kind, reason) in rows {
        let e = compile(&model).unwrap_err();
        assert!(e.kind() == kind && e.to_string().contains(reason), "{what}: {e:?}");
    }
    // The same with parameters that do, up to the last product that surely fits.
    for model in [product(1.0, &[0.5, 0.25], 8, 3), product(1.0, &[0.5], 66_000, 127)] {
        let x =
            Tensor::from_slice(&[2, model_depth(&model)], &vec![255.0f32; 2 * model_depth(&model)]).unwrap();
        let inputs = [x];
        let scored = compile(&model).unwrap().score(&inputs, &Call::new()).unwrap();
        assert_eq!(scored.tensor(0).unwrap().as_bytes(), super::expected(&model, &inputs).as_bytes());
    }
    assert!(QParams::new(1.0, 256, QType::U8).is_err());
}

fn model_depth(model: &Model) -> usize {
    match model.signature().inputs()[0].dims().unwrap()[1] {
        triscore::Dim::Fixed(n) => n,
        _ => 0,
    }
}

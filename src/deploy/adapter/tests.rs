use super::*;
use crate::scoring::{FaultBackend, Placement};
use BackendKind::{Cpu, Fpga, Gpu};

/// A backend whose devices are real, as far as it says.
#[derive(Debug)]
struct Real(BackendKind, usize);

impl Backend for Real {
    fn kind(&self) -> BackendKind {
        self.0
    }
    fn probe(&self) -> Result<Vec<Device>> {
        let device = |index| Device {
            backend: self.0,
            index,
            name: "board".to_owned(),
            memory_bytes: None,
            emulated: index % 2 == 1,
            facts: Vec::new(),
        };
        Ok((0..self.1).map(device).collect())
    }
    fn place(&self, _: &Model, _: &Device) -> Result<Placement> {
        Err(ScoreError::unsupported("not in this test"))
    }
    fn compile(&self, _: &Model, _: &[Device], _: &CompileOptions) -> Result<Arc<dyn Scorer>> {
        Err(ScoreError::unsupported("not in this test"))
    }
}

fn fault(kind: BackendKind, devices: usize) -> Arc<dyn Backend> {
    Arc::new(FaultBackend::new(kind).with_devices(devices))
}

fn none(kind: BackendKind, reason: &str) -> Arc<dyn Backend> {
    Arc::new(FaultBackend::new(kind).unavailable(reason))
}

/// What a selection comes to, in one line: devices and reason, or the error.
fn outcome(requirement: &Requirement, backends: &[Arc<dyn Backend>], emulation: bool) -> String {
    match select(requirement, backends, emulation) {
        Ok(selection) => {
            for device in &selection.devices {
                assert_eq!(device.backend, selection.backend.kind());
            }
            selection.to_string()
        }
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
            format!("error: {e}")
        }
    }
}

#[test]
fn what_is_required_is_given_or_refused() {
    let machine = [
        fault(Cpu, 1),
        none(Gpu, "libcuda.so.1 not found in /usr/lib"),
        Arc::new(Real(Fpga, 3)) as Arc<dyn Backend>,
    ];
    let rows = [
        (Cpu, 1, true, "cpu:0 fault (emulated)"),
        (Gpu, 1, true, "error: asks for 1 GPU; this machine has none: libcuda.so.1 not found in /usr/lib"),
        (Gpu, 2, true, "error: asks for 2 GPUs; this machine has none: libcuda.so.1 not found in /usr/lib"),
        (Fpga, 1, false, "fpga:0 board"),
        (Fpga, 2, false, "fpga:0 board, fpga:2 board"),
        (Fpga, 3, true, "fpga:0 board, fpga:2 board, fpga:1 board (emulated)"),
        (
            Fpga,
            3,
            false,
            "error: asks for 3 FPGAs; this machine has 2: fpga:0 board, fpga:2 board but emulated ones, which \
             tell nothing of speed: fpga:1 board (emulated) (\"triscore\": {\"allowEmulation\": true} takes them, \
             on the command line --allow-emulation)",
        ),
        (
            Fpga,
            4,
            true,
            "error: asks for 4 FPGAs; this machine has 3: fpga:0 board, fpga:2 board, fpga:1 board (emulated)",
        ),
        (
            BackendKind::Custom("npu"),
            1,
            false,
            "error: asks for 1 npu device; this program was built without the npu backend",
        ),
    ];
    for (kind, count, emulation, expected) in rows {
        let requirement = Requirement::Require { kind, count };
        assert_eq!(outcome(&requirement, &machine, emulation), expected);
    }
    let refused = outcome(&Requirement::Require { kind: Gpu, count: 1 }, &[fault(Gpu, 1)], false);
    assert!(
        refused.starts_with("error: asks for 1 GPU; this machine has none but emulated ones"),
        "{refused}"
    );
}

#[test]
fn only_a_preference_falls_back_and_says_so() {
    let machine = [fault(Cpu, 1), none(Gpu, "no driver"), fault(Fpga, 1)];
    let rows: [(&[(BackendKind, usize)], &str); 5] = [
        (&[(Cpu, 1), (Gpu, 1)], "cpu:0 fault (emulated)"),
        (
            &[(Gpu, 1), (Cpu, 1)],
            "cpu:0 fault (emulated) (fell back: asks for 1 GPU; this machine has none: no driver)",
        ),
        (&[(Fpga, 1), (Cpu, 1)], "fpga:0 fault (emulated)"),
        (
            &[(Gpu, 1), (Fpga, 2), (Cpu, 1)],
            "cpu:0 fault (emulated) (fell back: asks for 1 GPU; this machine has none: no driver; \
             asks for 2 FPGAs; this machine has 1: fpga:0 fault (emulated))",
        ),
        (
            &[(Gpu, 1), (Fpga, 2)],
            "error: asks for 1 GPU; this machine has none: no driver; \
             asks for 2 FPGAs; this machine has 1: fpga:0 fault (emulated)",
        ),
    ];
    for (order, expected) in rows {
        let requirement = Requirement::Prefer { order: order.to_vec() };
        assert_eq!(outcome(&requirement, &machine, true), expected);
    }
}

#[test]
fn a_device_that_cannot_run_the_model_hands_on_as_well() {
    let prefer = Requirement::Prefer { order: vec![(Gpu, 1), (Cpu, 1)] };
    let unsupported = |kind, _| match kind {
        Gpu => Err(ScoreError::unsupported("does not run models yet")),
        kind => Ok(kind),
    };
    assert_eq!(first_of(&prefer, unsupported).unwrap(), (Cpu, Some("does not run models yet".to_owned())));
    let require = Requirement::Require { kind: Gpu, count: 1 };
    assert_eq!(first_of(&require, unsupported).unwrap_err().kind(), ErrorKind::Unsupported);
    let never = |kind: BackendKind, _| Err::<(), _>(ScoreError::bad_model(format!("not on {kind}")));
    let e = first_of(&prefer, never).unwrap_err();
    assert_eq!((e.kind(), e.message()), (ErrorKind::BadModel, "not on gpu; not on cpu"));
    let empty = Requirement::Prefer { order: vec![] };
    assert_eq!(first_of(&empty, unsupported).unwrap_err().kind(), ErrorKind::Internal);
}

#[test]
fn files_are_weighed_against_the_machine() {
    let machine = Machine { cpu_cores: 2.0, memory_bytes: Some(4_000_000_000) };
    let adapter = Adapter::new(vec![fault(Cpu, 1), none(Gpu, "no driver")]).with_machine(machine);
    let rows = [
        ("computeType: local\ntriscore: {allowEmulation: true}", "cpu:0 fault (emulated)"),
        ("computeType: aci\ncontainerResourceRequirements: {cpu: 4}", "asks for 4, this machine has 2"),
        (
            "computeType: aci\ncontainerResourceRequirements: {memoryInGB: 48}",
            "asks for 48 GB, this machine has 4.00 GB",
        ),
        ("computeType: aks\ngpuCores: 1", "asks for 1 GPU; this machine has none: no driver"),
        (
            "computeType: aks\ngpuCores: 1\ntriscore: {policy: prefer, allowEmulation: true}",
            "cpu:0 fault (emulated) (fell back: asks for 1 GPU; this machine has none: no driver)",
        ),
    ];
    for (text, expected) in rows {
        let config = DeploymentConfig::parse(text.as_bytes()).expect(text);
        let said = match adapter.select(&config) {
            Ok(selection) => selection.to_string(),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Unavailable);
                e.to_string()
            }
        };
        assert!(said.contains(expected), "{text}: {said}");
    }
}

#[test]
fn resources_become_options() {
    let machine = Machine { cpu_cores: 2.0, memory_bytes: Some(4_000_000_000) };
    let adapter = Adapter::new(vec![fault(Cpu, 1), fault(Gpu, 1)]).with_machine(machine);
    let options =
        |text: &str| adapter.compile_options(&DeploymentConfig::parse(text.as_bytes()).expect(text));
    let plain = options("computeType: aks");
    assert_eq!((plain.cpu_cores, plain.memory_bytes, plain.lanes, plain.max_batch), (None, None, None, None));
    for (text, cores, memory) in [
        ("{cpu: 0.5, memoryInGB: 1}", Some(0.5), Some(1_000_000_000)),
        ("{cpu: 0.5, cpuLimit: 1.5, memoryInGB: 1, memoryInGBLimit: 2}", Some(1.5), Some(2_000_000_000)),
        ("{cpuLimit: 64, memoryInGBLimit: 64}", Some(2.0), Some(4_000_000_000)),
    ] {
        let o = options(&format!("computeType: aks\ncontainerResourceRequirements: {text}"));
        assert_eq!((o.cpu_cores, o.memory_bytes), (cores, memory), "{text}");
    }
    let o = options("computeType: local\ntriscore: {lanes: 3, precision: bf16, batching: {maxBatch: 16}}");
    assert_eq!((o.lanes, o.max_batch), (Some(3), Some(16)));
    assert_eq!(o.precision, crate::scoring::Precision::Bf16);

    let require = Requirement::Require { kind: Gpu, count: 1 };
    let prefer = Requirement::Prefer { order: vec![(Gpu, 1), (Cpu, 1)] };
    assert!(adapter.host(&require, Gpu).is_none(), "what requires a GPU has all of it there");
    assert_eq!(adapter.host(&prefer, Gpu).map(|b| b.kind()), Some(Cpu));
    assert!(adapter.host(&prefer, Cpu).is_none());
}

#[test]
fn the_backends_that_were_built_come_in_order() {
    let kinds = backends().iter().map(|b| b.kind()).collect::<Vec<_>>();
    let order = [Cpu, Gpu, Fpga];
    assert!(kinds.iter().map(|k| order.iter().position(|o| o == k)).is_sorted(), "{kinds:?}");
    assert_eq!(kinds.contains(&Gpu), cfg!(feature = "cuda"));
    assert_eq!(kinds.contains(&Fpga), cfg!(feature = "opencl"));
}

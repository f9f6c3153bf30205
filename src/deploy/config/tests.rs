use super::*;
use crate::error::ErrorKind;
use crate::scoring::{BackendKind, Buckets, Precision};

fn parse(text: &str) -> Result<DeploymentConfig> {
    DeploymentConfig::parse(text.as_bytes())
}

fn good(text: &str) -> DeploymentConfig {
    parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn the_published_samples_work() {
    let local = good(r#"{"computeType": "local", "port": 32267}"#);
    assert_eq!((local.compute, local.port), (ComputeType::Local, Some(32267)));
    assert!(!local.auth.is_required() && local.warnings.is_empty());
    let aci = good(
        r#"{"containerResourceRequirements": {"cpu": 0.5, "memoryInGB": 1.0}, "authEnabled": true,
            "sslEnabled": false, "appInsightsEnabled": false, "computeType": "ACI"}"#,
    );
    assert!(aci.auth.key && !aci.auth.token && !aci.ssl.enabled);
    assert_eq!((aci.resources.cpu, aci.resources.memory_gb), (0.5, 1.0));
    assert_eq!(aci.warnings, []);
    let aks = good(
        "computeType: aks\ncontainerResourceRequirements:\n  cpu: 1\n  memoryInGB: 2\ngpuCores: 1\n\
         autoScaler: {autoscaleEnabled: true, minReplicas: 1, maxReplicas: 3, targetUtilization: 70}\n\
         scoringTimeoutMs: 5000\nauthEnabled: true\nmaxConcurrentRequestsPerContainer: 4\n",
    );
    assert_eq!(aks.request, AcceleratorRequest { gpu: 1, fpga: 0 });
    assert_eq!(aks.timeouts.scoring_timeout_ms, 5000);
    let refresh = Scaling::Auto {
        min_replicas: 1,
        max_replicas: 3,
        refresh_period_s: 1,
        target_utilization_percent: 70,
    };
    assert_eq!(aks.scaling, refresh);
}

#[test]
fn compute_types_are_named_in_any_case() {
    for (text, compute) in [
        ("local", ComputeType::Local),
        ("LOCAL", ComputeType::Local),
        ("Aci", ComputeType::Aci),
        ("aKs", ComputeType::Aks),
        ("AksEndpoint", ComputeType::AksEndpoint),
    ] {
        assert_eq!(good(&format!(r#"{{"computeType": "{text}"}}"#)).compute, compute);
    }
}

#[test]
fn what_is_not_said_has_the_default() {
    let nulls = r#"{"computeType": "aks", "authEnabled": null, "numReplicas": null, "autoScaler": null,
        "containerResourceRequirements": {"cpu": null}, "livenessProbeRequirements": {}, "triscore": null}"#;
    for text in [r#"{"computeType": "aks"}"#, nulls] {
        let c = good(text);
        assert_eq!((c.resources.cpu, c.resources.memory_gb), (0.1, 0.5));
        assert!(!c.resources.cpu_is_stated && !c.resources.memory_is_stated);
        assert_eq!(c.auth, Auth { key: true, token: false });
        assert!(
            matches!(c.scaling, Scaling::Auto { min_replicas: 1, max_replicas: 10, .. }),
            "{:?}",
            c.scaling
        );
        let timeouts = Timeouts {
            scoring_timeout_ms: 60_000,
            max_concurrent_requests_per_container: 1,
            max_queue_wait_ms: 500,
        };
        assert_eq!(c.timeouts, timeouts);
        let p = c.liveness;
        let probe = (p.period_s, p.initial_delay_s, p.timeout_s, p.success_threshold, p.failure_threshold);
        assert_eq!(probe, (10, 310, 2, 1, 3));
        assert_eq!((c.request, c.port, c.warnings.len()), (AcceleratorRequest::default(), None, 0));
        assert!(c.keys.primary.is_none() && c.triscore.warm_up && !c.triscore.allow_emulation);
        assert!(!c.states("authEnabled") && !c.states("containerResourceRequirements.cpu"));
    }
    for compute in ["local", "aci"] {
        let c = good(&format!("computeType: {compute}"));
        assert_eq!((c.auth.is_required(), c.scaling), (false, Scaling::Fixed { replicas: 1 }), "{compute}");
    }
    assert_eq!(good("computeType: aks\nnumReplicas: 3").scaling, Scaling::Fixed { replicas: 3 });
    assert!(!good("computeType: aks\ntokenAuthEnabled: true").auth.key);
    assert!(good("computeType: aks\ntokenAuthEnabled: true").auth.is_required());
}

#[test]
fn each_rule_names_key_expected_and_got() {
    let rows = [
        ("{}", "computeType: expected local, aci, aks or aksendpoint, got nothing"),
        ("computeType:", "computeType: expected local, aci, aks or aksendpoint, got nothing"),
        ("computeType: ''", "computeType: expected local, aci, aks or aksendpoint, got the text ''"),
        ("computeType: iot", "aks or aksendpoint, got the text 'iot'"),
        ("computeType: 5", "computeType: expected a text, in quotes, got the number 5"),
        ("[1]", "expected an object of keys and values, got a list"),
        ("text", "expected an object of keys and values, got a text"),
        ("computeType: local\nport: 0", "port: expected a whole number from 1 to 65535, got the number 0"),
        (
            "computeType: local\nport: 65536",
            "port: expected a whole number from 1 to 65535, got the number 65536",
        ),
        (
            "computeType: local\nport: '80'",
            "port: expected a whole number from 1 to 65535, without quotes, got the text '80'",
        ),
        ("computeType: local\nport: 80.5", "got the number 80.5"),
        ("computeType: local\nport: true", "got true"),
        ("computeType: aci\nauthEnabled: yes", "authEnabled: expected true or false, got the text 'yes'"),
        ("computeType: aci\nauthEnabled: 1", "authEnabled: expected true or false, got the number 1"),
        ("computeType: aci\ncname: 12", "cname: expected a text, in quotes, got the number 12"),
        (
            "computeType: aci\ncontainerResourceRequirements: 1",
            "containerResourceRequirements: expected an object",
        ),
        (
            "computeType: aci\ncontainerResourceRequirements: {cpu: 0}",
            "containerResourceRequirements.cpu: expected a number above 0, got the number 0",
        ),
        (
            "computeType: aci\ncontainerResourceRequirements: {memoryInGB: -1}",
            "memoryInGB: expected a number above 0, got the number -1",
        ),
        (
            "computeType: aci\ncontainerResourceRequirements: {cpu: 2Gi}",
            "cpu: expected a number above 0, got the text '2Gi'",
        ),
        (
            "computeType: aks\ncontainerResourceRequirements: {cpu: 2, cpuLimit: 1}",
            "cpuLimit: expected at least cpu (2), got 1",
        ),
        (
            "computeType: aks\ncontainerResourceRequirements: {memoryInGBLimit: 0.25}",
            "memoryInGBLimit: expected at least memoryInGB (0.5, the default), got 0.25",
        ),
        (
            "computeType: aci\nsslEnabled: true\ncname: x",
            "sslEnabled: expected sslCertificate and sslKey with it",
        ),
        ("computeType: aci\nvnetName: x", "vnetName: expected subnetName with it, or none of them"),
        (
            "computeType: aci\nkeyName: x",
            "keyName: expected vaultBaseUrl and keyVersion with it, or none of them",
        ),
        (
            "computeType: aci\nkeys: {primaryKey: 5}",
            "keys.primaryKey: expected a text without control characters or spaces around it, in quotes, got a number",
        ),
        ("computeType: aci\nkeys: {primaryKey: \"a\\nb\"}", "got a text"),
        ("computeType: aks\nauthEnabled: true\ntokenAuthEnabled: true", "not both"),
        ("computeType: aks\nnumReplicas: 0", "numReplicas: expected a whole number from 1"),
        (
            "computeType: aks\nnumReplicas: 2\nautoScaler: {autoscaleEnabled: true}",
            "numReplicas: expected no value while autoScaler.autoscaleEnabled is true, got 2",
        ),
        (
            "computeType: aks\nautoScaler: {autoscaleEnabled: false}",
            "autoScaler.autoscaleEnabled: expected numReplicas with it",
        ),
        (
            "computeType: aks\nnumReplicas: 2\nautoScaler: {minReplicas: 1}",
            "autoScaler.minReplicas: expected autoscaling to be on",
        ),
        (
            "computeType: aks\nautoScaler: {minReplicas: 5, maxReplicas: 4}",
            "autoScaler.minReplicas: expected at most maxReplicas (4), got 5",
        ),
        (
            "computeType: aks\nautoScaler: {minReplicas: 11}",
            "expected at most maxReplicas (10, the default), got 11",
        ),
        (
            "computeType: aks\nautoScaler: {targetUtilization: 0}",
            "autoScaler.targetUtilization: expected a whole number",
        ),
        (
            "computeType: aks\nautoScaler: {refreshPeriodInSeconds: 0.5}",
            "autoScaler.refreshPeriodInSeconds: expected a whole number",
        ),
        ("computeType: aks\nscoringTimeoutMs: 0", "scoringTimeoutMs: expected a whole number from 1"),
        (
            "computeType: local\nmaxQueueWaitMs: 5000000000",
            "maxQueueWaitMs: expected a whole number from 1 to 4294967295",
        ),
        ("computeType: aks\nmaxConcurrentRequestsPerContainer: -3", "got the number -3"),
        (
            "computeType: aks\nlivenessProbeRequirements: {periodSeconds: 0}",
            "livenessProbeRequirements.periodSeconds: expected",
        ),
        ("computeType: aks\nnamespace: Prod", "namespace: expected a Kubernetes namespace"),
        (
            "computeType: aksendpoint\ntrafficPercentile: 101",
            "trafficPercentile: expected a number from 0 to 100",
        ),
        ("computeType: aks\ngpuCores: -1", "gpuCores: expected a whole number from 0"),
        ("computeType: aks\ngpuCores: 0.5", "gpuCores: expected a whole number from 0"),
        (
            "computeType: aks\ngpuCores: 1\ncontainerResourceRequirements: {gpu: 2}",
            "gpuCores: expected the same as containerResourceRequirements.gpu (2), or one of them alone, got 1",
        ),
        (
            "computeType: aks\ngpuCores: 1\ncontainerResourceRequirements: {fpga: 2}",
            "containerResourceRequirements: expected GPUs or FPGAs",
        ),
        (
            "computeType: aks\ngpuCores: 1\ncontainerResourceRequirements: {fpga: 2}\ntriscore: {backend: gpu}",
            "containerResourceRequirements.fpga: expected 0, as triscore asks for gpu alone, got 2",
        ),
        (
            "computeType: aks\ngpuCores: 1\ntriscore: {backend: cpu}",
            "gpuCores: expected 0, as triscore asks for cpu alone, got 1",
        ),
        (
            "computeType: aks\ntriscore: {backend: tpu}",
            "triscore.backend: expected cpu, gpu or fpga, got the text 'tpu'",
        ),
        ("computeType: aks\ntriscore: {policy: maybe}", "triscore.policy: expected require or prefer"),
        (
            "computeType: aks\ntriscore: {fallback: [cpu]}",
            "triscore.fallback: expected triscore.policy 'prefer' with it",
        ),
        (
            "computeType: aks\ntriscore: {policy: prefer, fallback: cpu}",
            "triscore.fallback: expected a list of cpu, gpu or fpga, none twice, got the text 'cpu'",
        ),
        (
            "computeType: aks\ntriscore: {policy: prefer, backend: gpu, fallback: [gpu]}",
            "triscore.fallback: expected other backends",
        ),
        (
            "computeType: aks\ntriscore: {backnd: gpu}",
            "triscore.backnd: unknown key: did you mean 'backend'?",
        ),
        (
            "computeType: aks\ntriscore: {batching: {size: 2}}",
            "triscore.batching.size: unknown key: expected maxBatch or maxDelayMs",
        ),
        ("computeType: aks\ntriscore: {lanes: 0}", "triscore.lanes: expected a whole number from 1 to 1024"),
        ("computeType: aks\ntriscore: {batching: {maxBatch: 0}}", "triscore.batching.maxBatch: expected"),
        ("computeType: aks\ntriscore: {buckets: {}}", "triscore.buckets: expected an object of 1 to 8 names"),
        ("computeType: aks\ntriscore: {buckets: {sequence: [0]}}", "as {\"sequence\": [64, 128]}"),
        ("computeType: aks\ntriscore: {buckets: {sequence: []}}", "lists of 1 to 32 lengths"),
        ("computeType: aks\ntriscore: {buckets: {sequence: 128}}", "lists of 1 to 32 lengths"),
        (
            "computeType: aks\ntriscore: {precision: fp16}",
            "triscore.precision: expected model, f32, tf32, bf16, f16 or int8",
        ),
        ("computeType: aks\ntriscore: []", "triscore: expected an object, got a list"),
    ];
    for (text, expected) in rows {
        let e = parse(text).expect_err(text);
        assert_eq!(e.kind(), ErrorKind::BadConfig, "{text}");
        assert!(e.to_string().contains(expected), "{text}\n  expected: {expected}\n  got: {e}");
        assert_eq!(e.to_string().lines().count(), 1, "{text}: one mistake, one line: {e}");
    }
}

#[test]
fn all_violations_are_one_error() {
    let text = r#"{"computeType": "cloud", "port": "x", "authEnabled": 1, "autoScaler": {"minReplicas": 0},
        "gpuCores": 1.5, "vnetName": "v", "triscore": {"policy": "strict", "lane": 2}}"#;
    let message = parse(text).unwrap_err().to_string();
    let keys = message.lines().map(|line| line.split(':').next().unwrap()).collect::<Vec<_>>();
    let expected = [
        "computeType",
        "port",
        "authEnabled",
        "autoScaler.minReplicas",
        "gpuCores",
        "triscore.policy",
        "triscore.lane",
        "vnetName",
    ];
    assert_eq!(keys, expected, "{message}");
}

#[test]
fn warnings_say_what_is_ignored() {
    let rows = [
        (
            "computeType: aci\nlocation: westeurope",
            "location: accepted, has no effect here: there is no Azure region",
        ),
        ("computeType: aci\ndnsNameLabel: x", "dnsNameLabel: accepted, has no effect here"),
        ("computeType: aci\nappInsightsEnabled: true", "appInsightsEnabled: accepted, has no effect here"),
        ("computeType: aks\nnamespace: prod", "namespace: accepted, has no effect here"),
        ("computeType: aks\ncomputeTargetName: c", "computeTargetName: accepted, has no effect here"),
        (
            "computeType: aksendpoint\ntrafficPercentile: 10",
            "trafficPercentile: accepted, has no effect here",
        ),
        (
            "computeType: aks\ndataCollection: {storageEnabled: true}",
            "dataCollection.storageEnabled: accepted",
        ),
        (
            "computeType: aks\ntrafficPercentile: 10",
            "trafficPercentile: not read for computeType aks, ignored",
        ),
        ("computeType: local\nauthEnabled: nonsense", "authEnabled: not read for computeType local, ignored"),
        ("computeType: aks\nport: 80", "port: not read for computeType aks, ignored"),
        (
            "computeType: aci\nauthEnabld: true",
            "authEnabld: unknown key, ignored: did you mean 'authEnabled'?",
        ),
        ("computeType: aci\ncomment: hello", "comment: unknown key, ignored"),
        (
            "computeType: aci\ncontainerResourceRequirements: {memory: 1}",
            "containerResourceRequirements.memory: unknown key, ignored",
        ),
        (
            "computeType: aci\n'containerResourceRequirements.cpu': 1",
            "containerResourceRequirements.cpu: unknown key, ignored",
        ),
        ("computeType: aci\ncname: ''", "cname: empty, taken as not given"),
        ("computeType: aci\nkeys: {secondaryKey: b}", "keys.secondaryKey: ignored without keys.primaryKey"),
        (
            "computeType: local\ncontainerResourceRequirements: {fpga: 1}",
            "containerResourceRequirements.fpga: 1 is taken as it is; Azure asked for a multiple of 2",
        ),
        (
            "computeType: aks\ncontainerResourceRequirements: {gpu: 1}",
            "containerResourceRequirements.gpu: honoured here",
        ),
        ("computeType: aks\nscoringTimeoutMs: 300001", "scoringTimeoutMs: honoured here"),
        (
            "computeType: aks\nnumReplicas: 1\nautoScaler: {maxReplicas: 3}",
            "autoScaler.maxReplicas: ignored: autoscaling is off",
        ),
    ];
    for (text, expected) in rows {
        let config = good(text);
        let said = config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(said.len(), 1, "{text}: {said:?}");
        assert!(said[0].starts_with(expected), "{text}\n  expected: {expected}\n  got: {}", said[0]);
    }
    for quiet in [
        "computeType: aci\nappInsightsEnabled: false",
        "computeType: aks\ndataCollection: {storageEnabled: false}",
    ] {
        assert_eq!(good(quiet).warnings, [], "{quiet}");
    }
}

#[test]
fn what_is_ignored_is_not_used() {
    let c = good(
        "computeType: local\nauthEnabled: true\nkeys: {primaryKey: a}\nnumReplicas: 5\nsslEnabled: true",
    );
    assert!(!c.auth.is_required() && c.keys.primary.is_none() && !c.ssl.enabled);
    assert_eq!(c.scaling, Scaling::Fixed { replicas: 1 });
    assert_eq!(good("computeType: aks\nport: 80").port, None);
    let c = good("computeType: aci\nkeys: {primaryKey: a, secondaryKey: ''}");
    assert!(c.keys.primary.is_some() && c.keys.secondary.is_none());
}

#[test]
fn our_own_object_is_read() {
    let c = good(
        r#"{"computeType": "local", "triscore": {"backend": "fpga", "policy": "prefer", "fallback": ["gpu", "cpu"],
            "allowEmulation": true, "precision": "int8", "batching": {"maxBatch": 8, "maxDelayMs": 2},
            "buckets": {"sequence": [128, 64.0], "height": [32]}, "lanes": 3, "warmUp": false}}"#,
    );
    let expected = TriscoreOptions {
        backend: Some(BackendKind::Fpga),
        policy: Policy::Prefer,
        fallback: Some(vec![BackendKind::Gpu, BackendKind::Cpu]),
        allow_emulation: true,
        precision: Precision::Int8,
        batching: Some(Batching { max_batch: Some(8), max_delay_ms: 2 }),
        buckets: Buckets::default().with("sequence", [64, 128]).with("height", [32]),
        lanes: Some(3),
        warm_up: false,
    };
    assert_eq!(c.triscore, expected);
    for (name, precision) in [
        ("model", Precision::Model),
        ("f32", Precision::F32),
        ("tf32", Precision::Tf32),
        ("bf16", Precision::Bf16),
        ("f16", Precision::F16),
    ] {
        assert_eq!(
            good(&format!("computeType: local\ntriscore: {{precision: {name}}}")).triscore.precision,
            precision
        );
    }
}

#[test]
fn keys_are_never_shown() {
    let text = r#"{"computeType": "aci", "keys": {"primaryKey": "s3cret-a", "secondaryKey": "s3cret-b"},
        "password": {"x": "s3cret-c"}, "sslKey": "s3cret-d", "vaultBaseUrl": {"odd": "s3cret-e"}}"#;
    let e = parse(text).unwrap_err();
    assert!(!format!("{e} {e:?}").contains("s3cret"), "{e}");
    let c = good(&text.replace("vaultBaseUrl", "vaultBaseURL"));
    assert_eq!(c.keys.primary.as_ref().unwrap().expose(), "s3cret-a");
    assert_eq!(c.keys.secondary.as_ref().unwrap().expose(), "s3cret-b");
    assert!(c.raw().to_string().contains("s3cret-c"));
    // The path of a certificate is a fact of the typed configuration; nothing else may show.
    let shown = format!("{:?} {:?} {}", c.keys, c.raw, c.redacted());
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(!format!("{c:?}").replace("s3cret-d", "").contains("s3cret"), "{c:?}");
    assert_eq!(c.redacted()["computeType"], "aci");

    // A missing quote makes one name of all that follows.
    let swallowed =
        r#"{"computeType": "aci", "sslEnabled: true, keys: {primaryKey: s3cret-a}": 1, "{s3cret-b}": 2}"#;
    let c = good(swallowed);
    assert!(!format!("{c:?} {}", c.redacted()).contains("s3cret"), "{c:?} {}", c.redacted());
    assert!(c.warnings[0].to_string().starts_with("sslEnabled…: unknown key"), "{}", c.warnings[0]);
}

#[test]
fn files_are_read_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deploymentconfig.json");
    let gone = DeploymentConfig::read(&path).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert!(gone.to_string().contains("deploymentconfig.json"), "{gone}");
    std::fs::write(&path, r#"{"computeType": "local", "port": 1"#).unwrap();
    let e = DeploymentConfig::read(&path).unwrap_err();
    assert!(e.to_string().contains("deploymentconfig.json: not valid JSON: EOF while parsing"), "{e}");
    std::fs::write(&path, "\u{FEFF}{\"computeType\": \"local\"}").unwrap();
    assert_eq!(DeploymentConfig::read(&path).unwrap().compute, ComputeType::Local);
    assert!(DeploymentConfig::read(dir.path()).is_err(), "a directory");
    assert_eq!(DeploymentConfig::read("/dev/zero").unwrap_err().kind(), ErrorKind::TooLarge);

    let pem = dir.path().join("cert.pem");
    let text = format!(
        "computeType: aci\nsslEnabled: true\ncname: a.example\nsslCertificate: {0}\nsslKey: {0}\n",
        pem.display()
    );
    std::fs::write(&path, &text).unwrap();
    assert!(parse(&text).is_ok(), "parsing touches no file");
    let missing = DeploymentConfig::read(&path).unwrap_err().to_string();
    assert!(
        missing.contains("sslCertificate: expected a PEM file that exists") && missing.contains("sslKey:"),
        "{missing}"
    );
    std::fs::write(&pem, "x").unwrap();
    assert!(DeploymentConfig::read(&path).unwrap().ssl.enabled);
}

/// Not a fuzzer, only its little brother: broken copies of a good file give errors, never panics.
#[test]
fn broken_copies_are_errors_or_files() {
    let seed = r#"{"computeType": "aks", "keys": {"primaryKey": "k"}, "autoScaler": {"minReplicas": 1}, "gpuCores": 1}"#;
    let yaml = "computeType: &a aks\nkeys: {primaryKey: *a}\nautoScaler:\n  minReplicas: 1\n";
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below.max(1)
    };
    for round in 0..4000 {
        let mut bytes = if round % 2 == 0 { seed } else { yaml }.as_bytes().to_vec();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            match random(4) {
                _ if bytes.is_empty() => {}
                0 => drop(bytes.remove(at)),
                1 => bytes.insert(at, b"{}[]:,\"'&*!|>%@\t\n 0\xff"[random(20)]),
                2 => bytes[at] = random(256) as u8,
                _ => bytes.truncate(at.max(1)),
            }
        }
        let _ = DeploymentConfig::parse(&bytes);
    }
}

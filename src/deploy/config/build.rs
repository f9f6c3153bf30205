//! From checked fields to the typed configuration: defaults, and the rules between keys.

use std::path::PathBuf;

use serde_json::Value;

use super::parts::COMPUTE_TYPES;
use super::report::{Report, describe};
use super::{
    AcceleratorRequest, Auth, Batching, ComputeType, DeploymentConfig, Fields, Keys, LivenessProbe, Policy,
    Raw, Resources, Scaling, Secret, Ssl, Timeouts, TriscoreOptions,
};
use crate::deploy::Requirement;
use crate::scoring::{BackendKind, Buckets};

/// The compute type, which decides how the rest is read.
pub(super) fn compute_type(root: &Value, report: &mut Report) -> Option<ComputeType> {
    let value = root.get("computeType").unwrap_or(&Value::Null);
    let known = value.as_str().and_then(|text| text.parse().ok());
    match value {
        _ if known.is_some() => {}
        Value::Null => report.violation("computeType", COMPUTE_TYPES, "nothing: the file must say it"),
        Value::String(_) => report.violation("computeType", COMPUTE_TYPES, describe(value, false)),
        // The table finds it.
        _ => {}
    }
    known
}

/// The whole configuration. Where the report has a violation the result is of no use, and is not used.
pub(super) fn config(
    fields: &Fields<'_>,
    compute: Option<ComputeType>,
    report: &mut Report,
) -> DeploymentConfig {
    let compute_or_any = compute.unwrap_or(ComputeType::Aks);
    all_or_none(fields, &["vnetName", "subnetName"], report);
    all_or_none(fields, &["vaultBaseUrl", "keyName", "keyVersion"], report);
    let request = request(fields, compute, report);
    let triscore = triscore(fields, report);
    check_order(fields, &request, &triscore, report);
    DeploymentConfig {
        compute: compute_or_any,
        port: fields.count("port").and_then(|p| u16::try_from(p).ok()),
        resources: resources(fields, report),
        request,
        auth: auth(fields, compute_or_any, report),
        keys: keys(fields, report),
        ssl: ssl(fields, report),
        scaling: scaling(fields, compute_or_any, report),
        timeouts: timeouts(fields, report),
        liveness: liveness(fields),
        triscore,
        warnings: Vec::new(),
        raw: Raw::default(),
    }
}

fn all_or_none(fields: &Fields<'_>, keys: &[&str], report: &mut Report) {
    let (given, missing) = keys.iter().copied().partition::<Vec<_>, _>(|key| fields.has(key));
    if let Some(first) = given.first().filter(|_| !missing.is_empty()) {
        report.violation(first, format!("{} with it, or none of them", missing.join(" and ")), "it without");
    }
}

fn resources(fields: &Fields<'_>, report: &mut Report) -> Resources {
    let mut pair = |key: &str, limit_key: &str, default: f64| {
        let at = |key| format!("containerResourceRequirements.{key}");
        let (stated, limit) = (fields.number(&at(key)), fields.number(&at(limit_key)));
        let amount = stated.unwrap_or(default);
        if let Some(limit) = limit.filter(|limit| *limit < amount) {
            let by = if stated.is_some() { "" } else { ", the default" };
            report.violation(&at(limit_key), format!("at least {key} ({amount}{by})"), limit);
        }
        (amount, limit, stated.is_some())
    };
    let (cpu, cpu_limit, cpu_is_stated) = pair("cpu", "cpuLimit", 0.1);
    let (memory_gb, memory_gb_limit, memory_is_stated) = pair("memoryInGB", "memoryInGBLimit", 0.5);
    Resources { cpu, memory_gb, cpu_limit, memory_gb_limit, cpu_is_stated, memory_is_stated }
}

fn request(fields: &Fields<'_>, compute: Option<ComputeType>, report: &mut Report) -> AcceleratorRequest {
    const GPU: &str = "containerResourceRequirements.gpu";
    const FPGA: &str = "containerResourceRequirements.fpga";
    let (top, inner) = (fields.size("gpuCores"), fields.size(GPU));
    match (top, inner) {
        (Some(top), Some(inner)) if top != inner => {
            report.violation("gpuCores", format!("the same as {GPU} ({inner}), or one of them alone"), top);
        }
        (None, Some(1..)) if compute.is_some_and(|c| c != ComputeType::Local) => {
            report.warning(GPU, "honoured here; Azure's tools read gpuCores instead");
        }
        _ => {}
    }
    let fpga = fields.size(FPGA).unwrap_or(0);
    if fpga % 2 == 1 {
        report.warning(FPGA, format!("{fpga} is taken as it is; Azure asked for a multiple of 2"));
    }
    AcceleratorRequest { gpu: top.or(inner).unwrap_or(0), fpga }
}

fn auth(fields: &Fields<'_>, compute: ComputeType, report: &mut Report) -> Auth {
    let (key, token) = (fields.flag("authEnabled"), fields.flag("tokenAuthEnabled").unwrap_or(false));
    let by_default = matches!(compute, ComputeType::Aks | ComputeType::AksEndpoint);
    if token && key == Some(true) {
        report.violation("tokenAuthEnabled", "authEnabled or tokenAuthEnabled, not both", "both");
    }
    Auth { key: key.unwrap_or(by_default && !token), token }
}

fn keys(fields: &Fields<'_>, report: &mut Report) -> Keys {
    let key = |path| fields.text(path).map(Secret::new);
    let (primary, secondary) = (key("keys.primaryKey"), key("keys.secondaryKey"));
    if primary.is_none() && secondary.is_some() {
        report.warning("keys.secondaryKey", "ignored without keys.primaryKey, as Azure did");
    }
    Keys { secondary: secondary.filter(|_| primary.is_some()), primary }
}

fn ssl(fields: &Fields<'_>, report: &mut Report) -> Ssl {
    let enabled = fields.flag("sslEnabled").unwrap_or(false);
    let missing = ["sslCertificate", "sslKey", "cname"].into_iter().filter(|key| !fields.has(key));
    let missing = missing.collect::<Vec<_>>();
    if enabled && !missing.is_empty() {
        report.violation("sslEnabled", format!("{} with it", missing.join(" and ")), "it without");
    }
    Ssl {
        enabled,
        certificate: fields.text("sslCertificate").map(PathBuf::from),
        key: fields.text("sslKey").map(PathBuf::from),
        cname: fields.text("cname").map(str::to_owned),
    }
}

/// Whether the files of `sslEnabled` are there, from the working directory as Azure's tools had it.
pub(super) fn look_for_files(ssl: &Ssl, report: &mut Report) {
    for (key, path) in [("sslCertificate", &ssl.certificate), ("sslKey", &ssl.key)] {
        if let Some(path) = path.as_ref().filter(|path| ssl.enabled && !path.is_file()) {
            report.violation(key, "a PEM file that exists", super::report::short(&path.to_string_lossy()));
        }
    }
}

fn scaling(fields: &Fields<'_>, compute: ComputeType, report: &mut Report) -> Scaling {
    const ON: &str = "autoScaler.autoscaleEnabled";
    if matches!(compute, ComputeType::Local | ComputeType::Aci) {
        return Scaling::Fixed { replicas: 1 };
    }
    let (stated, replicas) = (fields.flag(ON), fields.count("numReplicas"));
    let on = stated.unwrap_or(!fields.has("numReplicas"));
    let given = |key: &str| fields.has(&format!("autoScaler.{key}"));
    if on && let Some(replicas) = replicas {
        report.violation("numReplicas", "no value while autoScaler.autoscaleEnabled is true", replicas);
    }
    if stated == Some(false) && !fields.has("numReplicas") {
        report.violation(ON, "numReplicas with it when it is false", "it without");
    }
    if on {
        let count = |key: &str, default| fields.count(&format!("autoScaler.{key}")).unwrap_or(default);
        let (min_replicas, max_replicas) = (count("minReplicas", 1), count("maxReplicas", 10));
        if min_replicas > max_replicas {
            let by = if given("maxReplicas") { "" } else { ", the default" };
            let expected = format!("at most maxReplicas ({max_replicas}{by})");
            report.violation("autoScaler.minReplicas", expected, min_replicas);
        }
        return Scaling::Auto {
            min_replicas,
            max_replicas,
            refresh_period_s: count("refreshPeriodInSeconds", 1),
            target_utilization_percent: count("targetUtilization", 70),
        };
    }
    if given("minReplicas") {
        report.violation("autoScaler.minReplicas", "autoscaling to be on with it", "it without");
    }
    for key in ["maxReplicas", "refreshPeriodInSeconds", "targetUtilization"].into_iter().filter(|k| given(k))
    {
        report.warning(&format!("autoScaler.{key}"), "ignored: autoscaling is off");
    }
    Scaling::Fixed { replicas: replicas.unwrap_or(1) }
}

fn timeouts(fields: &Fields<'_>, report: &mut Report) -> Timeouts {
    let count = |key, default| fields.count(key).unwrap_or(default);
    let scoring_timeout_ms = count("scoringTimeoutMs", 60_000);
    if scoring_timeout_ms > 300_000 {
        report.warning("scoringTimeoutMs", "honoured here; Azure's front end cut it to 300000");
    }
    Timeouts {
        scoring_timeout_ms,
        max_concurrent_requests_per_container: count("maxConcurrentRequestsPerContainer", 1),
        max_queue_wait_ms: count("maxQueueWaitMs", 500),
    }
}

fn liveness(fields: &Fields<'_>) -> LivenessProbe {
    let count =
        |key: &str, default| fields.count(&format!("livenessProbeRequirements.{key}")).unwrap_or(default);
    LivenessProbe {
        period_s: count("periodSeconds", 10),
        initial_delay_s: count("initialDelaySeconds", 310),
        timeout_s: count("timeoutSeconds", 2),
        success_threshold: count("successThreshold", 1),
        failure_threshold: count("failureThreshold", 3),
    }
}

fn triscore(fields: &Fields<'_>, report: &mut Report) -> TriscoreOptions {
    let kind = |text: &str| text.parse::<BackendKind>().ok();
    let policy = match fields.text("triscore.policy") {
        Some("prefer") => Policy::Prefer,
        _ => Policy::Require,
    };
    let fallback = fields.list("triscore.fallback").map(|list| list.filter_map(kind).collect::<Vec<_>>());
    if policy == Policy::Require && fallback.as_ref().is_some_and(|list| !list.is_empty()) {
        report.violation("triscore.fallback", "triscore.policy 'prefer' with it", "it without");
    }
    let backend = fields.text("triscore.backend").and_then(kind);
    if let (Some(backend), Some(list)) = (backend, &fallback)
        && list.contains(&backend)
    {
        report.violation("triscore.fallback", "other backends than triscore.backend", backend);
    }
    let batching = fields.has("triscore.batching").then(|| Batching {
        max_batch: fields.size("triscore.batching.maxBatch"),
        max_delay_ms: fields.count("triscore.batching.maxDelayMs").unwrap_or(0),
    });
    TriscoreOptions {
        backend,
        policy,
        fallback,
        allow_emulation: fields.flag("triscore.allowEmulation").unwrap_or(false),
        precision: fields.text("triscore.precision").and_then(|p| p.parse().ok()).unwrap_or_default(),
        batching,
        buckets: fields
            .lengths("triscore.buckets")
            .fold(Buckets::default(), |all, (name, lengths)| all.with(name, lengths)),
        lanes: fields.size("triscore.lanes"),
        warm_up: fields.flag("triscore.warmUp").unwrap_or(true),
    }
}

/// A file that asks for a device must not end up without it because `triscore` says something else.
fn check_order(
    fields: &Fields<'_>,
    request: &AcceleratorRequest,
    options: &TriscoreOptions,
    report: &mut Report,
) {
    if request.gpu > 0 && request.fpga > 0 && options.backend.is_none() {
        let expected = "GPUs or FPGAs, or triscore.backend, policy 'prefer' and fallback to name their order";
        report.violation("containerResourceRequirements", expected, "both");
        return;
    }
    let requirement = Requirement::from_parts(request, options);
    let gpu_key = if fields.has("gpuCores") { "gpuCores" } else { "containerResourceRequirements.gpu" };
    let fpga_key = "containerResourceRequirements.fpga";
    for (key, kind) in [(gpu_key, BackendKind::Gpu), (fpga_key, BackendKind::Fpga)] {
        let count = request.of(kind);
        if count > 0 && !requirement.allows(kind) {
            let order = requirement.order().iter().map(|(k, _)| k.to_string()).collect::<Vec<_>>();
            let expected = format!("0, as triscore asks for {} alone", order.join(", "));
            report.violation(key, expected, count);
        }
    }
}

//! The contract as a table: every key that a deployment file may hold, who reads it, and its rule.
//!
//! One table and one walk over the file, rather than a function a section: a key cannot be read without
//! being checked, be checked without being known, or be known without standing here.

use serde_json::Value;

use super::report::{Report, describe, either, join, plain_name};
use super::{ComputeType, Fields};

/// Which compute types read a key, one bit each.
pub(super) type On = u8;

pub(super) const LOCAL: On = 1;
pub(super) const ACI: On = 2;
pub(super) const AKS: On = 4;
pub(super) const ENDPOINT: On = 8;
const CLUSTER: On = AKS | ENDPOINT;
const CLOUD: On = ACI | CLUSTER;
/// Read for every compute type; where Azure read such a key for some only, it works for all here.
const ALL: On = LOCAL | CLOUD;

impl ComputeType {
    fn bit(self) -> On {
        match self {
            Self::Local => LOCAL,
            Self::Aci => ACI,
            Self::Aks => AKS,
            Self::AksEndpoint => ENDPOINT,
        }
    }
}

/// What a value must be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rule {
    /// `true` or `false`.
    Flag,
    /// A whole number within these bounds, both included.
    Whole(u64, u64),
    /// A finite number above zero.
    Above0,
    /// Any text.
    Text,
    /// A text that no message may show.
    Secret,
    /// A Kubernetes namespace.
    Namespace,
    /// One of these texts.
    One(&'static [&'static str]),
    /// A list of such texts, none twice.
    List(&'static [&'static str]),
    /// Lists of lengths, by any names.
    Lengths,
    /// A share in percent.
    Percent,
    /// An object whose keys stand in the table too.
    Section,
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) path: &'static str,
    pub(super) on: On,
    pub(super) rule: Rule,
    /// Why it does nothing here, for the keys that only mean something on Azure.
    pub(super) idle: Option<&'static str>,
}

const fn key(path: &'static str, on: On, rule: Rule) -> Key {
    Key { path, on, rule, idle: None }
}

const fn idle(path: &'static str, on: On, rule: Rule, why: &'static str) -> Key {
    Key { path, on, rule, idle: Some(why) }
}

use Rule::{Above0, Flag, Lengths, List, Namespace, One, Percent, Secret, Section, Text, Whole};

const COUNT: Rule = Whole(1, u32::MAX as u64);
const DEVICES: Rule = Whole(0, 1024);
/// Dimensions that may be padded, lengths of each, and the longest.
const MOST_NAMES: usize = 8;
const MOST_LENGTHS: usize = 32;
const MOST_LENGTH: u64 = 1 << 20;
const KINDS: &[&str] = &["cpu", "gpu", "fpga"];
const NO_CLOUD: &str = "there is no Azure region or network here";
const NO_INSIGHTS: &str = "there is no Application Insights here; see the logs and metrics of the server";
const NO_COLLECTION: &str = "there is no storage account here; nothing is collected";
const NO_VAULT: &str = "there is no Azure Key Vault here";
const NO_CLUSTER: &str = "there is no cluster here";
const NO_TRAFFIC: &str = "there is no traffic split here; one service is one version";

/// Every key of the contract, in the order of its documentation, and our own object at the end.
#[rustfmt::skip]
pub(super) const KEYS: &[Key] = &[
    key("computeType", ALL, Text),
    key("port", LOCAL, Whole(1, 65535)),

    key("containerResourceRequirements", ALL, Section),
    key("containerResourceRequirements.cpu", ALL, Above0),
    key("containerResourceRequirements.memoryInGB", ALL, Above0),
    key("containerResourceRequirements.cpuLimit", ALL, Above0),
    key("containerResourceRequirements.memoryInGBLimit", ALL, Above0),
    key("containerResourceRequirements.gpu", ALL, DEVICES),
    key("containerResourceRequirements.fpga", ALL, DEVICES),
    key("gpuCores", ALL, DEVICES),

    key("authEnabled", CLOUD, Flag),
    key("tokenAuthEnabled", CLUSTER, Flag),
    key("keys", CLOUD, Section),
    key("keys.primaryKey", CLOUD, Secret),
    key("keys.secondaryKey", CLOUD, Secret),
    key("sslEnabled", ACI, Flag),
    key("sslCertificate", ACI, Text),
    key("sslKey", ACI, Text),
    key("cname", ACI, Text),

    key("autoScaler", CLUSTER, Section),
    key("autoScaler.autoscaleEnabled", CLUSTER, Flag),
    key("autoScaler.minReplicas", CLUSTER, COUNT),
    key("autoScaler.maxReplicas", CLUSTER, COUNT),
    key("autoScaler.refreshPeriodInSeconds", CLUSTER, COUNT),
    key("autoScaler.targetUtilization", CLUSTER, COUNT),
    key("numReplicas", CLUSTER, COUNT),

    key("scoringTimeoutMs", ALL, COUNT),
    key("maxConcurrentRequestsPerContainer", ALL, COUNT),
    key("maxQueueWaitMs", ALL, COUNT),
    key("livenessProbeRequirements", CLUSTER, Section),
    key("livenessProbeRequirements.periodSeconds", CLUSTER, COUNT),
    key("livenessProbeRequirements.initialDelaySeconds", CLUSTER, COUNT),
    key("livenessProbeRequirements.timeoutSeconds", CLUSTER, COUNT),
    key("livenessProbeRequirements.successThreshold", CLUSTER, COUNT),
    key("livenessProbeRequirements.failureThreshold", CLUSTER, COUNT),

    idle("location", ACI, Text, NO_CLOUD),
    idle("dnsNameLabel", ACI, Text, NO_CLOUD),
    idle("vnetName", ACI, Text, NO_CLOUD),
    idle("subnetName", ACI, Text, NO_CLOUD),
    idle("appInsightsEnabled", CLOUD, Flag, NO_INSIGHTS),
    idle("vaultBaseUrl", ACI, Text, NO_VAULT),
    idle("keyName", ACI, Text, NO_VAULT),
    idle("keyVersion", ACI, Text, NO_VAULT),
    key("dataCollection", CLUSTER, Section),
    idle("dataCollection.storageEnabled", CLUSTER, Flag, NO_COLLECTION),
    idle("dataCollection.eventHubEnabled", CLUSTER, Flag, NO_COLLECTION),
    idle("namespace", CLUSTER, Namespace, NO_CLUSTER),
    idle("computeTargetName", CLUSTER, Text, NO_CLUSTER),
    idle("versionName", ENDPOINT, Text, NO_TRAFFIC),
    idle("trafficPercentile", ENDPOINT, Percent, NO_TRAFFIC),

    key("triscore", ALL, Section),
    key("triscore.backend", ALL, One(KINDS)),
    key("triscore.policy", ALL, One(&["require", "prefer"])),
    key("triscore.fallback", ALL, List(KINDS)),
    key("triscore.allowEmulation", ALL, Flag),
    key("triscore.precision", ALL, One(&["model", "f32", "tf32", "bf16", "f16", "int8"])),
    key("triscore.batching", ALL, Section),
    key("triscore.batching.maxBatch", ALL, Whole(1, 1 << 20)),
    key("triscore.batching.maxDelayMs", ALL, Whole(0, 60_000)),
    key("triscore.buckets", ALL, Lengths),
    key("triscore.lanes", ALL, Whole(1, 1024)),
    key("triscore.warmUp", ALL, Flag),
];

/// Checks a file against the table, and gives the fields that can be read: known, read for this compute
/// type, not null, and within their rule. Without a compute type every known key is checked.
pub(super) fn check<'v>(root: &'v Value, compute: Option<ComputeType>, report: &mut Report) -> Fields<'v> {
    let mut fields = Fields::default();
    walk("", root, compute, report, &mut fields);
    fields
}

fn walk<'v>(
    path: &str,
    object: &'v Value,
    compute: Option<ComputeType>,
    report: &mut Report,
    fields: &mut Fields<'v>,
) {
    for (name, value) in object.as_object().into_iter().flatten() {
        let full = join(path, name);
        // A dot within a key must not make it look like a deeper one.
        let known = KEYS.iter().find(|k| k.path == full && !name.contains('.'));
        let Some(key) = known else {
            let ours = path == "triscore" || path.starts_with("triscore.");
            report.unknown(path, name, siblings(path), ours);
            continue;
        };
        if value.is_null() {
            continue;
        }
        if let Some(compute) = compute.filter(|c| key.on & c.bit() == 0) {
            report.warning(key.path, format!("not read for computeType {compute}, ignored"));
            continue;
        }
        // In templates an empty text stands for "not given", and Azure's tools took it so.
        if value.as_str() == Some("") {
            report.warning(key.path, "empty, taken as not given");
            continue;
        }
        if let Err(expected) = key.rule.check(value) {
            let secret = matches!(key.rule, Secret);
            report.violation(key.path, expected, describe(value, secret));
            continue;
        }
        // A switch that is off asks for nothing.
        if let Some(why) = key.idle.filter(|_| value != &Value::Bool(false)) {
            report.warning(key.path, format!("accepted, has no effect here: {why}"));
        }
        fields.insert(key.path, value);
        if matches!(key.rule, Section) {
            walk(key.path, value, compute, report, fields);
        }
    }
}

/// A copy of a file without its secrets, and without the values of unknown keys: nobody knows what they are.
pub(super) fn redacted(root: &Value) -> Value {
    fn copy(path: &str, object: &Value) -> Value {
        let entries = object.as_object().into_iter().flatten().map(|(name, value)| {
            let full = join(path, name);
            let known = KEYS.iter().find(|k| k.path == full && !name.contains('.'));
            let shown = match known.map(|key| (key.rule, value)) {
                Some((Section, Value::Object(_))) => copy(&full, value),
                Some((List(_) | Lengths, _)) => value.clone(),
                Some((rule, _)) if !matches!(rule, Secret) && full != "sslKey" && is_scalar(value) => {
                    value.clone()
                }
                _ if value.is_null() => Value::Null,
                _ => "…".into(),
            };
            (if known.is_some() { name.clone() } else { plain_name(name) }, shown)
        });
        Value::Object(entries.collect())
    }
    copy("", root)
}

fn is_scalar(value: &Value) -> bool {
    !value.is_object() && !value.is_array()
}

/// The names that are known in the object at a path.
fn siblings(path: &str) -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter_map(move |key| match key.path.rsplit_once('.') {
        Some((parent, name)) => (parent == path).then_some(name),
        None => path.is_empty().then_some(key.path),
    })
}

impl Rule {
    /// Whether a value is as it should be; if not, what was expected.
    fn check(self, value: &Value) -> Result<(), String> {
        let text = value.as_str();
        let good = match self {
            Flag => value.is_boolean(),
            Whole(least, most) => whole(value).is_some_and(|n| (least..=most).contains(&n)),
            Above0 => value.as_f64().is_some_and(|n| n > 0.0),
            Text => text.is_some(),
            // What no header can carry, no client can send.
            Secret => text.is_some_and(|t| !t.contains(char::is_control) && t.trim() == t),
            Namespace => text.is_some_and(is_namespace),
            One(names) => text.is_some_and(|t| names.contains(&t)),
            List(names) => value.as_array().is_some_and(|list| {
                let one_of = |(i, item): (usize, &Value)| {
                    item.as_str().is_some_and(|t| names.contains(&t))
                        && list.iter().take(i).all(|o| o != item)
                };
                list.len() <= names.len() && list.iter().enumerate().all(one_of)
            }),
            Lengths => value
                .as_object()
                .is_some_and(|all| (1..=MOST_NAMES).contains(&all.len()) && all.values().all(are_lengths)),
            Percent => value.as_f64().is_some_and(|n| (0.0..=100.0).contains(&n)),
            Section => value.is_object(),
        };
        if good { Ok(()) } else { Err(self.expected(value)) }
    }

    fn expected(self, value: &Value) -> String {
        let mut out = match self {
            Flag => "true or false".to_owned(),
            Whole(least, most) => format!("a whole number from {least} to {most}"),
            Above0 => "a number above 0".to_owned(),
            Text => "a text".to_owned(),
            Secret => "a text without control characters or spaces around it".to_owned(),
            Namespace => "a Kubernetes namespace (a-z, 0-9 and - within, at most 63)".to_owned(),
            One(names) => either(names),
            List(names) => format!("a list of {}, none twice", either(names)),
            Lengths => format!(
                "an object of 1 to {MOST_NAMES} names of dimensions with lists of 1 to {MOST_LENGTHS} lengths from 1 to {MOST_LENGTH}, as {{\"sequence\": [64, 128]}}"
            ),
            Percent => "a number from 0 to 100".to_owned(),
            Section => "an object".to_owned(),
        };
        let hint = match (self, value) {
            (Flag | Whole(..) | Above0, Value::String(text)) if looks_bare(text) => ", without quotes",
            (Text | Secret | Namespace, Value::Number(_) | Value::Bool(_)) => ", in quotes",
            _ => "",
        };
        out.push_str(hint);
        out
    }
}

/// Whether a text would be right if only its quotes were gone.
fn looks_bare(text: &str) -> bool {
    matches!(text, "true" | "false") || text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// A whole number, also where it is written `2.0`.
pub(super) fn whole(value: &Value) -> Option<u64> {
    const EXACT: f64 = (1u64 << 53) as f64;
    let float = || value.as_f64().filter(|n| n.fract() == 0.0 && (0.0..EXACT).contains(n));
    value.as_u64().or_else(|| float().map(|n| n as u64))
}

fn are_lengths(value: &Value) -> bool {
    value.as_array().is_some_and(|list| {
        let is_length = |item: &Value| whole(item).is_some_and(|n| (1..=MOST_LENGTH).contains(&n));
        (1..=MOST_LENGTHS).contains(&list.len()) && list.iter().all(is_length)
    })
}

/// `^[a-z0-9]([a-z0-9-]{,61}[a-z0-9])?$`
fn is_namespace(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = [text.bytes().next(), text.bytes().last()];
    text.len() <= 63
        && ends.into_iter().all(|b| b.is_some_and(letter))
        && text.bytes().all(|b| letter(b) || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_is_a_tree_without_doubles() {
        let mut seen = std::collections::HashSet::new();
        for key in KEYS {
            assert!(seen.insert(key.path), "{} stands twice", key.path);
            if let Some((parent, _)) = key.path.rsplit_once('.') {
                let parent = KEYS.iter().find(|k| k.path == parent).expect(key.path);
                assert!(matches!(parent.rule, Section), "{}", key.path);
                assert_eq!(key.on & !parent.on, 0, "{} is read where its object is not", key.path);
            }
        }
        assert!(siblings("triscore.batching").eq(["maxBatch", "maxDelayMs"]));
    }

    #[test]
    fn rules_know_good_from_bad() {
        let rows = [
            (Flag, vec![json!(true), json!(false)], vec![json!("yes"), json!(1), json!("true")]),
            (
                Whole(1, 9),
                vec![json!(1), json!(9), json!(2.0)],
                vec![json!(0), json!(10), json!(-1), json!(1.5), json!("1"), json!(1e300), json!(true)],
            ),
            (Above0, vec![json!(0.1), json!(3)], vec![json!(0), json!(-0.5), json!("1"), json!([1])]),
            (Text, vec![json!("a")], vec![json!(1), json!({})]),
            (Secret, vec![json!("a b")], vec![json!("a\n"), json!(" a"), json!(7)]),
            (Percent, vec![json!(0), json!(99.5), json!(100)], vec![json!(-1), json!(101), json!("5")]),
            (
                Namespace,
                vec![json!("a"), json!("a-0"), json!("9")],
                vec![json!("-a"), json!("a-"), json!("A"), json!(""), json!("é"), json!("a".repeat(64))],
            ),
            (One(KINDS), vec![json!("cpu")], vec![json!("CPU"), json!(["cpu"]), json!("tpu")]),
            (
                List(KINDS),
                vec![json!([]), json!(["gpu", "cpu"])],
                vec![json!("cpu"), json!(["cpu", "cpu"]), json!(["tpu"]), json!([1])],
            ),
            (Section, vec![json!({})], vec![json!([]), json!("x")]),
        ];
        for (rule, good, bad) in rows {
            for value in good {
                assert_eq!(rule.check(&value), Ok(()), "{rule:?} {value}");
            }
            for value in bad {
                assert!(rule.check(&value).is_err(), "{rule:?} {value}");
            }
        }
    }

    #[test]
    fn quotes_are_hinted_at() {
        for (rule, value, expected) in [
            (Flag, json!("true"), "true or false, without quotes"),
            (Flag, json!("yes"), "true or false"),
            (Above0, json!("0.5"), "a number above 0, without quotes"),
            (Text, json!(5), "a text, in quotes"),
        ] {
            assert_eq!(rule.check(&value), Err(expected.to_owned()));
        }
    }
}

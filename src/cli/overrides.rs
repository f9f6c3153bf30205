//! The flags that say parts of a deployment file on the command line.
//!
//! One table: each row is a flag, the key of the file that it stands for, and how its value is read. A
//! flag is put into the file before that is checked, so every rule of the file applies to it, and what has
//! no effect off Azure is said in the file's own warnings, under the flag's name.

use std::path::Path;

use clap::{Arg, ArgMatches, Command};
use serde_json::{Map, Value};
use triscore::deploy::DeploymentConfig;
use triscore::{Result, ScoreError};

use super::output::Output;

/// How a value becomes JSON. What is not of the form is left as text, and the file's rules refuse it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Number,
    Flag,
    Text,
}

/// One flag.
#[derive(Debug, Clone, Copy)]
struct Row {
    long: &'static str,
    /// Its second spelling; az had both.
    alias: &'static str,
    /// The key of the file.
    key: &'static str,
    form: Form,
    /// What it does here.
    help: &'static str,
}

const fn row(
    long: &'static str,
    alias: &'static str,
    key: &'static str,
    form: Form,
    help: &'static str,
) -> Row {
    Row { long, alias, key, form, help }
}

use Form::{Flag, Number, Text};

/// Every flag that stands for a key of a deployment file.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    row("compute-type", "cp", "computeType", Text, "Kind of service: local, aci or aks [default: the file's, else local]"),
    row("cpu-cores", "cc", "containerResourceRequirements.cpu", Number, "Processor cores"),
    row("cpu-cores-limit", "ccl", "containerResourceRequirements.cpuLimit", Number, "Processor cores at most"),
    row("memory-gb", "gb", "containerResourceRequirements.memoryInGB", Number, "Memory in GB"),
    row("memory-gb-limit", "gbl", "containerResourceRequirements.memoryInGBLimit", Number, "Memory in GB at most"),
    row("gpu-cores", "gc", "gpuCores", Number, "GPUs"),
    row("auth-enabled", "ae", "authEnabled", Flag, "Whether callers must show a key"),
    row("token-auth-enabled", "", "tokenAuthEnabled", Flag, "Whether callers must show a token of `service get-access-token`"),
    row("key-auth-primary-key", "kp", "keys.primaryKey", Text, "The first key; others on this machine may see it on the command line"),
    row("key-auth-secondary-key", "ks", "keys.secondaryKey", Text, "The second key; as the first"),
    row("enable-app-insights", "ai", "appInsightsEnabled", Flag, "No effect: there is no Application Insights here"),
    row("collect-model-data", "md", "dataCollection.storageEnabled", Flag, "No effect: nothing is collected here"),
    row("autoscale-enabled", "as", "autoScaler.autoscaleEnabled", Flag, "Whether the number of replicas follows the load"),
    row("autoscale-min-replicas", "mi", "autoScaler.minReplicas", Number, "Replicas at least"),
    row("autoscale-max-replicas", "ma", "autoScaler.maxReplicas", Number, "Replicas at most"),
    row("autoscale-refresh-seconds", "ar", "autoScaler.refreshPeriodInSeconds", Number, "Seconds between two looks at the load"),
    row("autoscale-target-utilization", "at", "autoScaler.targetUtilization", Number, "Busy replicas to aim for, in percent"),
    row("num-replicas", "nr", "numReplicas", Number, "Replicas, where their number does not follow the load"),
    row("replica-max-concurrent-requests", "rm", "maxConcurrentRequestsPerContainer", Number, "Requests that are scored at once"),
    row("max-request-wait-time", "mr", "maxQueueWaitMs", Number, "Milliseconds that a request may wait; then it is answered 503"),
    row("scoring-timeout-ms", "tm", "scoringTimeoutMs", Number, "Milliseconds that a request may take; then it is answered 504"),
    row("period-seconds", "ps", "livenessProbeRequirements.periodSeconds", Number, "Seconds between two probes"),
    row("initial-delay-seconds", "id", "livenessProbeRequirements.initialDelaySeconds", Number, "Seconds until the first probe"),
    row("timeout-seconds", "ts", "livenessProbeRequirements.timeoutSeconds", Number, "Seconds that a probe may take"),
    row("success-threshold", "st", "livenessProbeRequirements.successThreshold", Number, "Good probes until it counts as alive"),
    row("failure-threshold", "ft", "livenessProbeRequirements.failureThreshold", Number, "Bad probes until it counts as dead"),
    row("namespace", "", "namespace", Text, "No effect: there is no cluster here"),
    row("compute-target", "ct", "computeTargetName", Text, "No effect but that the kind is aks, unless it is said: there is no cluster here"),
    row("version-name", "vn", "versionName", Text, "No effect: there is no traffic split here"),
    row("traffic-percentile", "tp", "trafficPercentile", Number, "No effect: there is no traffic split here"),
    row("location", "lo", "location", Text, "No effect: there is no Azure region here"),
    row("dns-name-label", "dn", "dnsNameLabel", Text, "No effect: there is no Azure network here"),
    row("vnet-name", "", "vnetName", Text, "No effect: there is no Azure network here"),
    row("subnet-name", "", "subnetName", Text, "No effect: there is no Azure network here"),
    row("vault-base-url", "", "vaultBaseUrl", Text, "No effect: there is no Azure Key Vault here"),
    row("key-name", "", "keyName", Text, "No effect: there is no Azure Key Vault here"),
    row("key-version", "", "keyVersion", Text, "No effect: there is no Azure Key Vault here"),
    row("ssl-enabled", "se", "sslEnabled", Flag, "Whether the service speaks TLS"),
    row("ssl-cname", "sc", "cname", Text, "The name in the certificate"),
    row("ssl-cert-pem-file", "sp", "sslCertificate", Text, "The certificate, as a PEM file"),
    row("ssl-key-pem-file", "sk", "sslKey", Text, "The certificate's key, as a PEM file"),
];

/// Flags of az that stand for no key, and do nothing here.
#[rustfmt::skip]
const IDLE: &[(&str, &str, &str)] = &[
    ("profile-input", "pi", "No effect: `triscore model profile` measures a model"),
];

/// The parts of a deployment file that were given as flags.
#[derive(Clone, Default)]
pub(super) struct Overrides {
    given: Vec<(Row, String)>,
    idle: Vec<&'static str>,
}

impl std::fmt::Debug for Overrides {
    /// The flags alone: some of their values are keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.given.iter().map(|(row, _)| row.long)).entries(&self.idle).finish()
    }
}

impl Overrides {
    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// The deployment file with the flags in it, checked. Without a file it is a local service's, unless a
    /// flag says what it is.
    ///
    /// # Errors
    /// As [`DeploymentConfig::read`]; a key that came by a flag is named with it.
    pub(super) fn over_file(&self, file: Option<&Path>) -> Result<DeploymentConfig> {
        let Some(path) = file else { return self.over(Value::Object(Map::new())) };
        self.over(DeploymentConfig::value(path)?).map_err(|e| e.with_at(path.display().to_string()))
    }

    /// A deployment file's content with the flags in it, checked.
    ///
    /// # Errors
    /// As [`over_file`](Self::over_file).
    pub(super) fn over(&self, mut root: Value) -> Result<DeploymentConfig> {
        if let Value::Object(file) = &mut root {
            for (row, text) in &self.given {
                put(file, row.key, value(row.form, text));
            }
            // A file must say it; flags alone need not.
            let says_nothing =
                file.keys().all(|key| self.given.iter().any(|(r, _)| r.key.starts_with(&**key)));
            if says_nothing && !file.contains_key("computeType") {
                let target = self.given.iter().any(|(row, _)| row.key == "computeTargetName");
                file.insert("computeType".to_owned(), if target { "aks" } else { "local" }.into());
            }
        }
        let mut config = DeploymentConfig::from_value(root).map_err(|e| self.with_flags(&e))?;
        for warning in &mut config.warnings {
            if let Some(flag) = self.flag_of(&warning.key) {
                warning.key = format!("{flag} ({})", warning.key);
            }
        }
        Ok(config)
    }

    /// Says what the author of a deployment file, or of these flags, should know.
    pub(super) fn warn(&self, config: &DeploymentConfig, file: Option<&Path>, out: &Output) {
        for warning in &config.warnings {
            match file.filter(|_| !warning.key.starts_with("--")) {
                Some(file) => out.note(&format!("warning: {}: {warning}", file.display())),
                None => out.note(&format!("warning: {warning}")),
            }
        }
        for idle in self.idle() {
            out.note(&format!("warning: {idle}"));
        }
    }

    /// Names the flags that do nothing whatever the file says.
    fn idle(&self) -> impl Iterator<Item = String> {
        let why = |flag: &str| IDLE.iter().find(|(long, ..)| *long == flag).map(|(_, _, why)| *why);
        self.idle.iter().map(move |flag| format!("--{flag}: {}", why(flag).unwrap_or_default()))
    }

    fn flag_of(&self, key: &str) -> Option<String> {
        self.given.iter().find(|(row, _)| row.key == key).map(|(row, _)| format!("--{}", row.long))
    }

    /// The same error, with the flag before each line that is about what the flag gave.
    fn with_flags(&self, e: &ScoreError) -> ScoreError {
        let lines = e.message().lines().map(|line| {
            let key = line.split(':').next().unwrap_or_default().trim();
            self.flag_of(key).map_or_else(|| line.to_owned(), |flag| format!("{flag}: {}", line.trim()))
        });
        let told = ScoreError::new(e.kind(), lines.collect::<Vec<_>>().join("\n"));
        match e.at() {
            Some(at) => told.with_at(at),
            None => told,
        }
    }
}

/// Sets a key given by its path, making the objects on the way. Where something else is on the way it stays:
/// the file's rules say so.
fn put(file: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(file.insert(path.to_owned(), value)),
        Some((first, rest)) => {
            let inner = file.entry(first).or_insert(Value::Null);
            if inner.is_null() {
                *inner = Value::Object(Map::new());
            }
            if let Value::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

fn value(form: Form, text: &str) -> Value {
    match form {
        Form::Text => None,
        Form::Flag => text.to_ascii_lowercase().parse::<bool>().ok().map(Value::Bool),
        Form::Number => serde_json::from_str::<serde_json::Number>(text.trim()).ok().map(Value::Number),
    }
    .unwrap_or_else(|| Value::String(text.to_owned()))
}

impl clap::FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let text = |long: &str| matches.get_one::<String>(long).cloned();
        Ok(Self {
            given: ROWS.iter().filter_map(|row| Some((*row, text(row.long)?))).collect(),
            idle: IDLE.iter().filter_map(|(long, ..)| text(long).map(|_| *long)).collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Overrides {
    fn augment_args(command: Command) -> Command {
        let arg = |long: &'static str, alias: &'static str, help: &'static str| {
            let arg = Arg::new(long).long(long).help(help).help_heading("Instead of the deployment file's");
            if alias.is_empty() { arg } else { arg.visible_alias(alias) }
        };
        let rows = ROWS.iter().map(|row| {
            let arg = arg(row.long, row.alias, row.help);
            match row.form {
                Form::Number => arg.value_name("NUMBER").allow_negative_numbers(true),
                // `--ae` alone means what it says.
                Form::Flag => arg.value_name("BOOL").num_args(0..=1).default_missing_value("true"),
                Form::Text => arg.value_name("TEXT"),
            }
        });
        let idle = IDLE.iter().map(|(long, alias, help)| arg(long, alias, help).value_name("TEXT"));
        command.args(rows).args(idle)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, FromArgMatches as _};
    use serde_json::json;
    use triscore::ErrorKind;

    fn overrides(args: &[&str]) -> Overrides {
        let command = Overrides::augment_args(Command::new("test").no_binary_name(true));
        Overrides::from_arg_matches(&command.try_get_matches_from(args).unwrap()).unwrap()
    }

    fn config(args: &[&str], file: Value) -> DeploymentConfig {
        overrides(args).over(file).unwrap()
    }

    /// Every row stands for a key that the file's own table knows, in a form that it takes.
    #[test]
    fn every_flag_reaches_its_key() {
        for row in ROWS.iter().filter(|row| row.key != "computeType") {
            let text = match row.form {
                Form::Number => "1",
                Form::Flag => "True",
                Form::Text => "text",
            };
            let given = [&*format!("--{}", row.long), text];
            let root = json!({});
            let mut file = root.as_object().unwrap().clone();
            put(&mut file, row.key, value(row.form, text));
            // Some need others with them; what matters is that none is unknown or of the wrong form.
            for kind in ["aci", "aks", "aksendpoint"] {
                let told = match overrides(&given).over(json!({ "computeType": kind })) {
                    Ok(config) => {
                        config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
                    }
                    Err(e) => e.to_string(),
                };
                assert!(!told.contains("unknown key"), "{}: {told}", row.long);
                assert!(!told.contains("got 'text'") && !told.contains("got '1'"), "{}: {told}", row.long);
            }
        }
    }

    #[test]
    fn flags_go_over_the_file() {
        let file = json!({
            "computeType": "aks", "authEnabled": false,
            "containerResourceRequirements": {"cpu": 1, "memoryInGB": 2}, "livenessProbeRequirements": null,
        });
        let made = config(&["--cc", "0.5", "--ps", "7", "--nr", "3", "--tm", "100"], file.clone());
        assert_eq!((made.resources.cpu, made.resources.memory_gb), (0.5, 2.0));
        assert_eq!((made.liveness.period_s, made.timeouts.scoring_timeout_ms), (7, 100));
        assert!(config(&["--ae"], file.clone()).auth.key && !config(&["--ae", "FALSE"], file).auth.key);

        use triscore::deploy::ComputeType::{Aci, Aks, Local};
        for (args, compute) in [
            (&[][..], Local),
            (&["--cc", "1"], Local),
            (&["--cp", "ACI"], Aci),
            (&["--ct", "cluster", "--gc", "1"], Aks),
            (&["--ct", "cluster", "--cp", "aci"], Aci),
        ] {
            assert_eq!(config(args, json!({})).compute, compute, "{args:?}");
        }
        // A file must say it itself, or a flag must.
        let silent = json!({ "gpuCores": 1 });
        assert_eq!(overrides(&[]).over(silent.clone()).unwrap_err().kind(), ErrorKind::BadConfig);
        assert_eq!(config(&["--cp", "aks"], silent).request.gpu, 1);
    }

    #[test]
    fn what_is_wrong_and_what_is_idle_is_told_with_the_flag() {
        for (args, words) in [
            (&["--cc", "two"][..], &["--cpu-cores: ", "'two'"][..]),
            (&["--cc", "-1"], &["--cpu-cores"]),
            (&["--cp", "aks", "--ae", "maybe"], &["--auth-enabled", "'maybe'"]),
            (&["--cp", "aks", "--as", "true", "--nr", "2"], &["--num-replicas", "autoscaleEnabled"]),
            (&["--cp", "cloud"], &["--compute-type", "'cloud'"]),
            (&["--cp", "aks", "--mi", "5", "--ma", "2"], &["--autoscale-min-replicas", "at most"]),
            (&["--cp", "aci", "--se", "true"], &["--ssl-enabled", "sslCertificate"]),
        ] {
            let e = overrides(args).over(json!({})).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::BadConfig);
            assert!(words.iter().all(|w| e.to_string().contains(w)), "{args:?}: {e}");
        }
        let made = config(&["--lo", "westus", "--ae", "true"], json!({}));
        let told = made.warnings.iter().map(ToString::to_string).collect::<Vec<_>>();
        for flag in ["--location (location)", "--auth-enabled (authEnabled)"] {
            let line = format!("{flag}: not read for computeType local");
            assert!(told.iter().any(|t| t.starts_with(&line)), "{told:?}");
        }
        let told = overrides(&["--pi", "x"]).idle().collect::<Vec<_>>();
        assert_eq!(told, ["--profile-input: No effect: `triscore model profile` measures a model"]);
    }

    #[test]
    fn keys_are_not_told() {
        let e =
            overrides(&["--cp", "aci", "--kp", "a secret\u{7}", "--cc", "x"]).over(json!({})).unwrap_err();
        assert!(!format!("{e} {e:?}").contains("a secret"), "{e}");
    }
}

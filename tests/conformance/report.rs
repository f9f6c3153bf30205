//! What came out of all cases on one device: how many passed, and why the others did not, by operator and reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use triscore::scoring::{NodePlacement, Placement, Site};

/// How a case ended.
pub(super) enum Verdict {
    /// The device answered right, by itself.
    OnDevice,
    /// The answer was right; the host ran these.
    WithHost(Vec<Why>),
    /// The backend said that it does not run these.
    Refused(Vec<Why>),
    /// The answer was wrong, or none; and how.
    Wrong(String),
}

/// An operator that a device does not run, and why.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Why {
    pub(super) operator: String,
    pub(super) reason: String,
}

/// The nodes that the host ran.
pub(super) fn hosted(placement: &Placement) -> Vec<Why> {
    whys(placement, |site| if let Site::Host { reason } = site { Some(reason) } else { None })
}

/// The nodes that nobody runs.
pub(super) fn nowhere(placement: &Placement) -> Vec<Why> {
    whys(placement, |site| if let Site::Nowhere { reason } = site { Some(reason) } else { None })
}

fn whys(placement: &Placement, reason: impl Fn(&Site) -> Option<&String>) -> Vec<Why> {
    let why = |node: &NodePlacement| {
        Some(Why { operator: node.operator.clone(), reason: reason(&node.site)?.clone() })
    };
    placement.nodes().iter().filter_map(why).collect()
}

pub(super) struct Report {
    device: String,
    verdicts: Vec<(String, Verdict)>,
}

impl Report {
    pub(super) fn new(device: String, mut verdicts: Vec<(String, Verdict)>) -> Self {
        verdicts.sort_by(|a, b| a.0.cmp(&b.0));
        Self { device, verdicts }
    }

    fn count(&self, of: impl Fn(&Verdict) -> bool) -> usize {
        self.verdicts.iter().filter(|(_, v)| of(v)).count()
    }

    /// The cases that pass without the host's help.
    pub(super) fn on_device(&self) -> Vec<&str> {
        let passed = self.verdicts.iter().filter(|(_, v)| matches!(v, Verdict::OnDevice));
        passed.map(|(name, _)| name.as_str()).collect()
    }

    pub(super) fn refused(&self) -> usize {
        self.count(|v| matches!(v, Verdict::Refused(_)))
    }

    /// The wrong ones, each with what is wrong.
    pub(super) fn wrong(&self) -> Vec<(&str, &str)> {
        self.verdicts
            .iter()
            .filter_map(|(name, v)| match v {
                Verdict::Wrong(what) => Some((name.as_str(), what.as_str())),
                _ => None,
            })
            .collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let helped = self.count(|v| matches!(v, Verdict::WithHost(_)));
        let (device, refused, wrong) = (self.on_device().len(), self.refused(), self.wrong());
        let (name, all) = (&self.device, self.verdicts.len());
        writeln!(
            f,
            "{name}: {all} cases: {device} pass on the device, {helped} with the host's help, {refused} are refused, {} WRONG",
            wrong.len()
        )?;
        for (name, what) in wrong {
            writeln!(f, "  WRONG {name}: {what}")?;
        }
        let mut table: BTreeMap<(&Why, &str), BTreeSet<&str>> = BTreeMap::new();
        for (name, verdict) in &self.verdicts {
            let (whys, who) = match verdict {
                Verdict::WithHost(whys) => (whys, "host"),
                Verdict::Refused(whys) => (whys, "refused"),
                _ => continue,
            };
            for why in whys {
                table.entry((why, who)).or_default().insert(name);
            }
        }
        let mut rows = table.into_iter().collect::<Vec<_>>();
        rows.sort_by_key(|(_, names)| std::cmp::Reverse(names.len()));
        if !rows.is_empty() {
            writeln!(f, "  {:>5}  {:<8} {:<22} REASON, AND A CASE", "CASES", "RUN BY", "OPERATOR")?;
        }
        for ((why, who), names) in rows {
            let example = names.first().copied().unwrap_or_default();
            let (count, Why { operator, reason }) = (names.len(), why);
            writeln!(f, "  {count:>5}  {who:<8} {operator:<22} {reason} ({example})")?;
        }
        Ok(())
    }
}

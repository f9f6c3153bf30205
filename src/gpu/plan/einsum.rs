//! `Einsum`: sums of products over labelled axes, as views, reductions and batched products of matrices.
//!
//! Operands are joined two at a time. Labels that both have and somebody still wants are a batch, labels that both have and nobody wants are summed
//! over, and each one's own labels are rows or columns. A label twice in one operand is a diagonal, which is a view.

use std::collections::HashMap;

use super::rows::reduction;
use super::{Deferred, Planner};
use crate::error::{Result, ScoreError};
use crate::graph::Node;
use crate::layout::view::View;

/// An operand, an axis a label.
#[derive(Debug, Clone)]
struct Term {
    labels: Vec<char>,
    value: Deferred,
}

impl Term {
    fn has(&self, label: char) -> bool {
        self.labels.contains(&label)
    }

    /// The lengths of these labels' axes.
    fn lengths(&self, labels: &[char]) -> Vec<usize> {
        let of = |label: &char| self.labels.iter().position(|l| l == label);
        labels.iter().map(|l| of(l).and_then(|a| self.value.shape().get(a)).copied().unwrap_or(1)).collect()
    }
}

impl Planner<'_> {
    /// Takes an `Einsum`; `false` for another operator.
    pub(super) fn einsum(&mut self, node: &Node) -> Result<bool> {
        if !node.is("Einsum") {
            return Ok(false);
        }
        let ranks = (0..node.inputs.len()).map(|i| Ok(self.input_shape(node, i)?.len()));
        let ranks = ranks.collect::<Result<Vec<_>>>()?;
        let equation = node.op.attributes.text("equation").unwrap_or_default();
        let (inputs, output) = parse(equation, &ranks)?;
        let mut terms = Vec::new();
        for (input, labels) in inputs.into_iter().enumerate() {
            let value = self.deferred(node, input)?;
            let value = self.unbound(value)?;
            terms.push(self.diagonal_of(Term { labels, value })?);
        }
        // An axis of one element repeats where others have more.
        let mut lengths: HashMap<char, usize> = HashMap::new();
        for term in &terms {
            for (label, length) in term.labels.iter().zip(term.value.shape()) {
                let most = lengths.entry(*label).or_insert(1);
                *most = if *most == 1 { *length } else { *most };
            }
        }
        for term in &mut terms {
            *term = self.without_repeats(term.clone(), &lengths)?;
        }
        let mut rest = terms.into_iter();
        let Some(mut joined) = rest.next() else { return Err(ScoreError::bad_model("it has no operand")) };
        while let Some(next) = rest.next() {
            let others = rest.as_slice();
            let wanted = |label: char| output.contains(&label) || others.iter().any(|t| t.has(label));
            joined = self.joined(joined, next, &wanted)?;
        }
        let joined = self.summed(joined, &|label| output.contains(&label))?;
        let shape = self.shape_of(node, 0)?;
        let place = |label: &char| joined.labels.iter().position(|l| l == label);
        let order = output.iter().map(place).collect::<Option<Vec<_>>>();
        let order =
            order.ok_or_else(|| ScoreError::bad_model(format!("'{equation}' makes an axis of nothing")))?;
        let y = match order.iter().copied().eq(0..order.len()) {
            true => joined.value,
            false => self.looked(joined.value, &shape, |view| Some(view.transposed(&order)))?,
        };
        self.defer(node, 0, y)?;
        Ok(true)
    }

    /// Each label once.
    fn diagonal_of(&mut self, term: Term) -> Result<Term> {
        let mut labels: Vec<char> = Vec::new();
        for label in &term.labels {
            if !labels.contains(label) {
                labels.push(*label);
            }
        }
        if labels.len() == term.labels.len() {
            return Ok(term);
        }
        let shape = term.lengths(&labels);
        let fits = |(label, n): (&char, &usize)| {
            labels.iter().position(|l| l == label).and_then(|a| shape.get(a)) == Some(n)
        };
        if !term.labels.iter().zip(term.value.shape()).all(fits) {
            return Err(ScoreError::bad_model(format!("a diagonal of {:?}", term.value.shape())));
        }
        let value = self.looked(term.value, &shape, |view| {
            let along = |label: char| {
                let axes = term.labels.iter().enumerate().filter(move |(_, l)| **l == label);
                axes.map(|(axis, _)| view.stride(axis)).sum::<isize>()
            };
            let strides = labels.iter().map(|label| along(*label)).collect();
            Some(View { shape: shape.clone(), strides, ..view.clone() })
        })?;
        Ok(Term { labels, value })
    }

    /// Without axes of one element where other operands have more.
    fn without_repeats(&mut self, term: Term, lengths: &HashMap<char, usize>) -> Result<Term> {
        let own = term.value.shape().to_vec();
        let stays =
            |(label, n): &(&char, &usize)| **n != 1 || lengths.get(label).is_none_or(|most| *most == 1);
        let (labels, shape): (Vec<_>, Vec<_>) = term.labels.iter().zip(&own).filter(stays).unzip();
        if labels.len() == term.labels.len() {
            return Ok(term);
        }
        Ok(Term { value: self.reshaped(term.value, &shape)?, labels })
    }

    /// The sum over all labels that nobody wants.
    fn summed(&mut self, term: Term, wanted: &dyn Fn(char) -> bool) -> Result<Term> {
        let gone =
            term.labels.iter().enumerate().filter(|(_, l)| !wanted(**l)).map(|(a, _)| a).collect::<Vec<_>>();
        if gone.is_empty() {
            return Ok(term);
        }
        let labels = term.labels.iter().copied().filter(|l| wanted(*l)).collect::<Vec<_>>();
        let shape = term.lengths(&labels);
        let sum = reduction("ReduceSum").ok_or_else(|| ScoreError::internal("a sum without a name"))?;
        let dtype = term.value.register().dtype();
        let value = self.reduced(term.value, &gone, &sum, dtype)?;
        Ok(Term { labels, value: self.reshaped(value, &shape)? })
    }

    /// The product of two operands, without the labels that nobody wants.
    fn joined(&mut self, a: Term, b: Term, wanted: &dyn Fn(char) -> bool) -> Result<Term> {
        // What only one of them has is summed over before.
        let a = self.summed(a, &|label| wanted(label) || b.has(label))?;
        let b = self.summed(b, &|label| wanted(label) || a.has(label))?;
        let pick = |term: &Term, which: &dyn Fn(char) -> bool| {
            term.labels.iter().copied().filter(|l| which(*l)).collect::<Vec<_>>()
        };
        let batch = pick(&a, &|l| b.has(l) && wanted(l));
        let inner = pick(&a, &|l| b.has(l) && !wanted(l));
        let (rows, columns) = (pick(&a, &|l| !b.has(l)), pick(&b, &|l| !a.has(l)));
        let labels = [batch.as_slice(), &rows, &columns].concat();
        let (m, n) = (a.lengths(&rows), b.lengths(&columns));
        let outer = a.lengths(&batch);
        let shape = [outer.as_slice(), &m, &n].concat();
        if outer != b.lengths(&batch) || a.lengths(&inner) != b.lengths(&inner) {
            let what =
                format!("{:?} and {:?} differ along an axis of both", a.value.shape(), b.value.shape());
            return Err(ScoreError::bad_model(what));
        }
        if inner.is_empty() {
            // Nothing is summed over: a product of elements.
            let ones = |n: usize| vec![1; n];
            let left =
                self.arranged(&a, &[&batch, &rows], &[outer.as_slice(), &m, &ones(n.len())].concat())?;
            let right =
                self.arranged(&b, &[&batch, &columns], &[outer.as_slice(), &ones(m.len()), &n].concat())?;
            let value = self.call("multiply", left.register(), vec![left, right], &shape)?;
            return Ok(Term { labels, value });
        }
        let (rows_count, columns_count) = (m.iter().product::<usize>(), n.iter().product::<usize>());
        let depth = a.lengths(&inner).iter().product::<usize>();
        let left = [outer.as_slice(), &[rows_count, depth]].concat();
        let right = [outer.as_slice(), &[depth, columns_count]].concat();
        let left = self.arranged(&a, &[&batch, &rows, &inner], &left)?;
        let right = self.arranged(&b, &[&batch, &inner, &columns], &right)?;
        let (left, right) = (self.in_memory(left)?, self.in_memory(right)?);
        let product =
            self.matmul(&left, &right, &[outer.as_slice(), &[rows_count, columns_count]].concat())?;
        Ok(Term { labels, value: self.reshaped(product, &shape)? })
    }

    /// An operand with its axes in the order of these labels, under a shape that joins some of them.
    fn arranged(&mut self, term: &Term, labels: &[&[char]], shape: &[usize]) -> Result<Deferred> {
        let labels = labels.concat();
        let order = labels.iter().map(|label| term.labels.iter().position(|l| l == label));
        let order =
            order.collect::<Option<Vec<_>>>().ok_or_else(|| ScoreError::internal("a label of nobody"))?;
        let lengths = term.lengths(&labels);
        let turned = self.looked(term.value.clone(), &lengths, |view| Some(view.transposed(&order)))?;
        self.reshaped(turned, shape)
    }
}

/// The labels of each operand's axes and of the result's; axes behind an ellipsis have labels that nobody can write.
fn parse(equation: &str, ranks: &[usize]) -> Result<(Vec<Vec<char>>, Vec<char>)> {
    let wrong = |what: &str| ScoreError::bad_model(format!("equation '{equation}': {what}"));
    let text = equation.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    let (left, right) = text.split_once("->").map_or((text.as_str(), None), |(l, r)| (l, Some(r)));
    let operands = left.split(',').collect::<Vec<_>>();
    if operands.len() != ranks.len() {
        return Err(wrong(&format!("{} operands, and there are {}", operands.len(), ranks.len())));
    }
    let named = |text: &str| text.replace("...", "").chars().count();
    let hidden =
        |text: &str, rank: usize| if text.contains("...") { rank.checked_sub(named(text)) } else { Some(0) };
    let most = operands.iter().zip(ranks).filter_map(|(text, rank)| hidden(text, *rank)).max().unwrap_or(0);
    // The last ones are common to all.
    let unnamed =
        |count: usize| (most.saturating_sub(count)..most).filter_map(|i| char::from_u32(0xE000 + i as u32));
    let expand = |text: &str, count: usize| -> Result<Vec<char>> {
        let (before, behind) = text.split_once("...").map_or((text, None), |(a, b)| (a, Some(b)));
        let labels = before.chars().chain(behind.iter().flat_map(|_| unnamed(count)));
        let labels = labels.chain(behind.unwrap_or_default().chars()).collect::<Vec<_>>();
        let is_label = |c: &char| c.is_ascii_alphabetic() || ('\u{E000}'..'\u{F8FF}').contains(c);
        if labels.iter().all(is_label) { Ok(labels) } else { Err(wrong("expected letters and one ellipsis")) }
    };
    let mut inputs = Vec::new();
    for (text, rank) in operands.iter().zip(ranks) {
        let labels = expand(text, hidden(text, *rank).unwrap_or(0))?;
        if labels.len() != *rank {
            return Err(wrong(&format!("'{text}' for a tensor of {rank} axes")));
        }
        inputs.push(labels);
    }
    let output = match right {
        Some(text) => expand(text, most)?,
        None => {
            let mut once = inputs.concat();
            let all = once.clone();
            once.retain(|c| c.is_ascii_alphabetic() && all.iter().filter(|o| *o == c).count() == 1);
            once.sort_unstable();
            unnamed(most).chain(once).collect()
        }
    };
    Ok((inputs, output))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equations_are_read_with_what_they_leave_out() {
        let of = |text: &str, ranks: &[usize]| {
            let shown = |labels: &[char]| {
                labels.iter().map(|c| if c.is_ascii() { *c } else { '.' }).collect::<String>()
            };
            parse(text, ranks).map(|(i, o)| (i.iter().map(|l| shown(l)).collect::<Vec<_>>(), shown(&o)))
        };
        assert_eq!(of("ij, jk -> ik", &[2, 2]).unwrap(), (vec!["ij".into(), "jk".into()], "ik".into()));
        assert_eq!(of("ba", &[2]).unwrap(), (vec!["ba".into()], "ab".into()));
        assert_eq!(of("...ii->...i", &[4]).unwrap(), (vec!["..ii".into()], "..i".into()));
        assert_eq!(of("...ij,jk", &[4, 2]).unwrap().1, "..ik");
        for (text, ranks, why) in [
            ("ij->i", vec![2, 2], "1 operands, and there are 2"),
            ("ijk->i", vec![2], "'ijk' for a tensor of 2 axes"),
            ("i1->i", vec![2], "expected letters"),
        ] {
            assert!(of(text, &ranks).unwrap_err().to_string().contains(why), "{text}");
        }
    }
}

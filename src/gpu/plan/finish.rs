//! The plan: launches with everything that a device needs to know of them, and where everything lies.

use std::collections::HashMap;

use super::library::Alternative;
use super::tensor_map::TensorMap;
use super::text::{NOWHERE, Struct};
use super::{Argument, Constant, Planner};
use crate::error::Result;
use crate::layout::arena;
use crate::layout::view::Storage;
use crate::tensor::DType;

/// What a device runs for inputs of one shape.
#[derive(Debug)]
pub(in super::super) struct Plan {
    /// Sources of kernels, each once.
    pub(in super::super) sources: Vec<String>,
    /// What is zero when the plan comes into an arena, and after each run: arena, bytes from its start, and how many.
    pub(in super::super) zeroed: Option<(usize, usize, usize)>,
    /// What is launched once, when the plan comes into an arena: what follows from constants alone.
    pub(in super::super) preparations: Vec<Launch>,
    /// What is launched for every run, in this order.
    pub(in super::super) launches: Vec<Launch>,
    /// The bytes of each arena: one, or one for each tensor where they are kept apart.
    pub(in super::super) arenas: Vec<usize>,
    /// What lies in the device's memory for ever.
    pub(in super::super) constants: Vec<Constant>,
    /// What callers give, and where it goes.
    pub(in super::super) inputs: Vec<(usize, Port)>,
    /// What callers get, and where it is.
    pub(in super::super) outputs: Vec<Port>,
}

/// A tensor of callers.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Port {
    pub(in super::super) dtype: DType,
    pub(in super::super) shape: Vec<usize>,
    pub(in super::super) bytes: usize,
    /// Arena, and bytes from its start.
    pub(in super::super) place: (usize, usize),
}

/// One kernel's work.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Launch {
    /// Which source it is in.
    pub(in super::super) source: usize,
    pub(in super::super) kernel: &'static str,
    pub(in super::super) grid: [u32; 3],
    pub(in super::super) block: u32,
    pub(in super::super) shared_bytes: u32,
    /// What a library may compute instead.
    pub(in super::super) library: Option<Alternative<Value>>,
    /// Arguments, each in the parts of which its bytes are made.
    pub(in super::super) arguments: Vec<Vec<Value>>,
    /// The model's nodes that it computes.
    pub(in super::super) origins: Vec<usize>,
}

/// A part of an argument.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) enum Value {
    /// An address in an arena.
    Arena(usize, usize),
    /// An address in a constant.
    Constant(usize, usize),
    Null,
    Word(u32),
    /// A tensor that copies take tiles of, as the driver encodes it.
    Tensor(Box<TensorMap<Value>>),
}

impl Value {
    /// The constant that it points to, if it is one.
    pub(in super::super) fn constant(&self) -> Option<usize> {
        match self {
            Self::Constant(constant, _) => Some(*constant),
            Self::Tensor(map) => map.at.constant(),
            Self::Arena(..) | Self::Null | Self::Word(_) => None,
        }
    }
}

/// What the driver aligns allocations to, and vector loads want.
const ALIGN_BYTES: usize = 256;

/// A launch has so many blocks at most along its second and third axis.
const MOST_BLOCKS: usize = 65_535;

impl Planner<'_> {
    pub(super) fn finish(self) -> Result<Plan> {
        let mut lives = vec![None; self.held.len()];
        let mut live = |storage: Storage, time| arena::lives_at(&mut lives, storage.0, time);
        let end = self.operators.len() + 1;
        for (time, (operator, _)) in self.operators.iter().enumerate() {
            operator.storages().into_iter().for_each(|s| live(s, time + 1));
            // A library may read another form of weights or a bias than the kernel does.
            let other = self.alternatives.get(&time).map(|other| [Some(other.right), other.bias]);
            other.into_iter().flatten().flatten().for_each(|(storage, _)| live(storage, time + 1));
        }
        let once = self.once();
        // What is computed once stays, and what counts parts is nobody else's.
        let lasting = self.operators.iter().zip(&once).filter(|(_, once)| **once);
        for storage in lasting.flat_map(|((operator, _), _)| &operator.writes).chain(&self.arrived) {
            live(*storage, 0);
            live(*storage, end);
        }
        self.inputs.iter().for_each(|(_, array)| live(array.view.storage, 0));
        self.outputs.iter().for_each(|array| live(array.view.storage, end));
        // Constants have memory of their own.
        let mut constants = Vec::new();
        let mut constant_of = vec![None; self.held.len()];
        for (at, held) in self.held.iter().enumerate() {
            if let (Some(constant), Some(true)) = (&held.constant, lives.get(at).map(Option::is_some)) {
                if let Some(slot) = constant_of.get_mut(at) {
                    *slot = Some(constants.len());
                }
                constants.push(constant.clone());
                if let Some(life) = lives.get_mut(at) {
                    *life = None;
                }
            }
        }
        let sizes = self.held.iter().map(|h| h.bytes).collect::<Vec<_>>();
        let (places, arenas) = match self.settings.guarded {
            true => ((0..sizes.len()).map(|at| (at, 0)).collect::<Vec<_>>(), sizes.clone()),
            false => {
                let (offsets, bytes) = arena::fit(&sizes, &lives, ALIGN_BYTES);
                (offsets.into_iter().map(|offset| (0, offset)).collect(), vec![bytes])
            }
        };
        // What nobody uses takes no memory.
        let used = |at: usize| lives.get(at).is_some_and(Option::is_some);
        let arenas = match self.settings.guarded {
            true => arenas.into_iter().enumerate().map(|(at, n)| if used(at) { n } else { 0 }).collect(),
            false => arenas,
        };
        let place = |storage: Storage| places.get(storage.0).copied().unwrap_or((0, 0));
        let address =
            |(storage, offset): (Storage, usize)| match constant_of.get(storage.0).copied().flatten() {
                _ if storage == NOWHERE => Value::Null,
                Some(constant) => Value::Constant(constant, offset),
                None => {
                    let (arena, start) = place(storage);
                    Value::Arena(arena, start + offset)
                }
            };
        let mut sources = Vec::new();
        let mut known: HashMap<_, usize> = HashMap::new();
        let (mut launches, mut preparations) = (Vec::new(), Vec::new());
        for (at, ((operator, origins), is_once)) in self.operators.iter().zip(&once).enumerate() {
            let source = *known.entry(operator.source.parts()).or_insert_with(|| {
                sources.push(operator.source.text());
                sources.len() - 1
            });
            let argument = |argument: &Argument| match argument {
                Argument::Result => Vec::new(),
                Argument::Struct(Struct { pointers, words }) => {
                    let pointers = pointers.iter().map(|p| address(*p));
                    pointers.chain(words.iter().map(|w| Value::Word(*w))).collect()
                }
                Argument::Pointer(place) => vec![place.map_or(Value::Null, address)],
                Argument::Tensor(map) => vec![Value::Tensor(Box::new(map.map(|place| address(*place))))],
                Argument::Int(value) => vec![Value::Word(*value as u32)],
                Argument::Unsigned(value) => vec![Value::Word(*value)],
                Argument::Float(value) => vec![Value::Word(value.to_bits())],
            };
            let blocks = operator.grid.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
            let [_, y, z] = operator.grid;
            if y > MOST_BLOCKS || z > MOST_BLOCKS {
                let what = format!("a launch of {:?} blocks is more than a GPU has", operator.grid);
                return Err(crate::error::ScoreError::unsupported(what));
            }
            let list = if *is_once { &mut preparations } else { &mut launches };
            list.push(Launch {
                source,
                kernel: operator.source.kernel,
                grid: blocks,
                block: operator.block as u32,
                shared_bytes: operator.shared_bytes as u32,
                library: self.alternatives.get(&at).map(|other| other.map(|place| address(*place))),
                arguments: operator.arguments.iter().map(argument).collect(),
                origins: origins.clone(),
            });
        }
        let port = |array: &super::Array| Port {
            dtype: array.dtype,
            shape: array.view.shape.clone(),
            bytes: array.view.count() * array.view.size,
            place: {
                let (arena, start) = place(array.view.storage);
                (arena, start + array.view.offset)
            },
        };
        let zeroed = self.arrived.map(|storage| {
            let (arena, start) = place(storage);
            (arena, start, sizes.get(storage.0).copied().unwrap_or(0))
        });
        Ok(Plan {
            sources,
            zeroed,
            preparations,
            launches,
            arenas,
            constants,
            inputs: self.inputs.iter().map(|(at, array)| (*at, port(array))).collect(),
            outputs: self.outputs.iter().map(port).collect(),
        })
    }
}

impl Planner<'_> {
    /// Which operators compute the same every time: they read constants, or what others of them make, and nobody else writes where they write.
    fn once(&self) -> Vec<bool> {
        let mut once = vec![true; self.operators.len()];
        let is_constant =
            |s: &Storage| *s == NOWHERE || self.held.get(s.0).is_some_and(|h| h.constant.is_some());
        loop {
            let mut changing = std::collections::HashSet::new();
            changing.extend(self.inputs.iter().map(|(_, array)| array.view.storage));
            for ((operator, _), _) in self.operators.iter().zip(&once).filter(|(_, once)| !**once) {
                changing.extend(&operator.writes);
            }
            let mut is_settled = true;
            for ((operator, _), once) in self.operators.iter().zip(&mut once) {
                let touches = operator.storages();
                let is_same = touches.iter().all(|s| is_constant(s) || !changing.contains(s));
                if *once && !is_same {
                    (*once, is_settled) = (false, false);
                    changing.extend(&operator.writes);
                }
            }
            if is_settled {
                return once;
            }
        }
    }
}

impl super::Operator {
    /// Everything that it reads or writes.
    fn storages(&self) -> Vec<Storage> {
        let mut all = self.writes.clone();
        for argument in &self.arguments {
            match argument {
                Argument::Struct(given) => all.extend(given.pointers.iter().map(|p| p.0)),
                Argument::Pointer(Some((storage, _))) => all.push(*storage),
                Argument::Tensor(map) => all.push(map.at.0),
                _ => {}
            }
        }
        all
    }
}

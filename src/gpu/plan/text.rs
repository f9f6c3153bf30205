//! The generated part of a kernel's source: how a program's operands are found for an element, and the argument that says it.
//!
//! A kernel counts elements; where in memory an operand's element lies follows from strides. What can differ between two tensors of the same rank,
//! lengths and strides, is in the argument, so that one compiled kernel serves all of them; what changes the code (types, how many operands, how
//! many axes are left when those that follow each other without a gap are one) is in the text.

use super::program::{Array, Leaf, Program, stored_name};
use crate::error::{Result, ScoreError};
use crate::layout::view::{Loops, Storage, View};

/// A struct that is given to a kernel by value: pointers first, then words of 32 bits.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in super::super) struct Struct {
    /// Storage, and bytes from its start.
    pub(in super::super) pointers: Vec<(Storage, usize)>,
    pub(in super::super) words: Vec<u32>,
}

/// Text and the argument that belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Generated {
    pub(super) text: String,
    pub(super) argument: Struct,
}

/// How a kernel counts the elements of a result.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Access {
    /// By one number, the axes in this order, the last one fastest.
    Flat(Vec<usize>),
    /// So, and four elements at once that follow each other, the first one's number a multiple of four.
    FlatFours(Vec<usize>),
    /// By several numbers, each over these axes in their order.
    Blocks(Vec<Vec<usize>>),
    /// So, and four elements at once that follow each other in the last of them, or as many as there are; the first one's number is a multiple of `first`.
    Fours { groups: Vec<Vec<usize>>, first: usize },
}

impl Access {
    /// The same way of counting, over other axes.
    #[must_use]
    pub(super) fn over(&self, groups: Vec<Vec<usize>>) -> Self {
        match self {
            Self::Flat(_) => Self::Flat(groups.concat()),
            Self::FlatFours(_) => Self::FlatFours(groups.concat()),
            Self::Blocks(_) => Self::Blocks(groups),
            Self::Fours { first, .. } => Self::Fours { groups, first: *first },
        }
    }
}

/// `Divide` of common.cu: dividing by that number without dividing (Granlund and Montgomery 1994).
pub(super) fn divide(by: usize) -> [u32; 3] {
    let by = u32::try_from(by).unwrap_or(u32::MAX).max(1);
    let shift = 32 - (by - 1).leading_zeros();
    let magic = (((1u64 << 32) * ((1u64 << shift) - u64::from(by))) / u64::from(by) + 1) as u32;
    [by, magic, shift]
}

/// What an element's number is multiplied with: a view whose elements are their own numbers in that order.
fn numbers(shape: &[usize], order: &[usize]) -> View {
    View::ordered(Storage(0), shape, order, 1)
}

/// The arrays of a program in the order of its leaves, the place in memory that is written first where there is one.
fn arrays<'a>(program: &'a Program, output: Option<&'a Array>) -> Vec<&'a Array> {
    output.into_iter().chain(program.arrays()).collect()
}

fn elements(strides: &[isize], size: usize) -> impl Iterator<Item = u32> + '_ {
    let size = size.max(1) as isize;
    strides.iter().map(move |s| i32::try_from(s / size).unwrap_or(0) as u32)
}

/// The struct's definition, for so many operands, divisors and axes.
fn definition(name: &str, operands: usize, divisors: usize, axes: usize) -> String {
    let (pointers, divisors, rows, axes) = (operands.max(1), divisors.max(1), operands.max(1), axes.max(1));
    format!(
        "struct {name} {{\n    static const int POINTERS = {operands};\n    const void *at[{pointers}];\n    Divide by[{divisors}];\n    int stride[{rows}][{axes}];\n}};\n"
    )
}

fn argument(arrays: &[&Array], divisors: &[usize], strides: &[Vec<isize>], axes: usize) -> Struct {
    let mut pointers = arrays.iter().map(|a| (a.view.storage, a.view.offset)).collect::<Vec<_>>();
    if pointers.is_empty() {
        pointers.push((NOWHERE, 0));
    }
    let mut words = divisors.iter().flat_map(|n| divide(*n)).collect::<Vec<_>>();
    if divisors.is_empty() {
        words.extend([0; 3]);
    }
    for (array, strides) in arrays.iter().zip(strides) {
        words.extend(elements(strides, array.view.size));
        words.extend(std::iter::repeat_n(0, axes.max(1) - strides.len().min(axes.max(1))));
    }
    if arrays.is_empty() {
        words.extend(std::iter::repeat_n(0, axes.max(1)));
    }
    // A struct's size is a multiple of its pointers'.
    if words.len() % 2 == 1 {
        words.push(0);
    }
    Struct { pointers, words }
}

/// No storage: a null pointer.
pub(in super::super) const NOWHERE: Storage = Storage(usize::MAX);

/// The places of all operands for element `i`, as statements.
fn places(loops: &Loops, operands: usize) -> String {
    let axes = loops.lengths.len();
    let mut text = String::new();
    for k in 0..operands {
        text.push_str(&format!("    int place{k} = 0;\n"));
    }
    text.push_str("    unsigned rest = i;\n");
    for axis in (0..axes).rev() {
        let at = if axis > 0 {
            text.push_str(&format!(
                "    unsigned next{axis} = quotient(rest, o.by[{axis} - 1]);\n    int at{axis} = rest - next{axis} * o.by[{axis} - 1].by;\n"
            ));
            format!("at{axis}")
        } else {
            "(int)rest".to_owned()
        };
        for (k, strides) in loops.strides.iter().skip(1).enumerate() {
            if strides.get(axis).is_some_and(|s| *s != 0) {
                text.push_str(&format!("    place{k} += {at} * o.stride[{k}][{axis}];\n"));
            }
        }
        if axis > 0 {
            text.push_str(&format!("    rest = next{axis};\n"));
        }
    }
    text
}

/// The expression of each leaf at its place: `output` operands come before those of the program.
fn leaves(program: &Program, before: usize, given: &str) -> Result<Vec<String>> {
    let mut at = before;
    let mut values = Vec::new();
    for leaf in &program.leaves {
        match leaf {
            Leaf::Memory(array) => {
                values.push(format!("((const {} *)o.at[{at}])[place{at}]", stored_name(array.dtype)?));
                at += 1;
            }
            Leaf::Given(_) => values.push(given.to_owned()),
        }
    }
    Ok(values)
}

/// How operands are found by an element's number: the loops over them, what the number is divided by, and the struct that says it.
struct Numbered<'a> {
    arrays: Vec<&'a Array>,
    loops: Loops,
}

impl<'a> Numbered<'a> {
    /// Over the elements of a shape, its axes in that order.
    fn of(arrays: Vec<&'a Array>, shape: &[usize], order: &[usize]) -> Self {
        let index = numbers(shape, order);
        let views = std::iter::once(&index).chain(arrays.iter().map(|a| &a.view)).collect::<Vec<_>>();
        let loops = Loops::over(&views);
        Self { arrays, loops }
    }

    /// Whether four elements that follow each other, the first one's number a multiple of four, do so along one axis of every operand.
    fn is_of_fours(&self) -> bool {
        self.loops.lengths.last().is_some_and(|length| length % 4 == 0)
    }

    fn strides(&self) -> &[Vec<isize>] {
        self.loops.strides.get(1..).unwrap_or_default()
    }

    fn divisors(&self) -> &[usize] {
        self.loops.lengths.get(1..).unwrap_or_default()
    }

    fn definition(&self, kind: &str) -> String {
        definition(kind, self.arrays.len(), self.divisors().len(), self.loops.lengths.len())
    }

    fn places(&self) -> String {
        places(&self.loops, self.arrays.len())
    }

    fn argument(&self) -> Struct {
        argument(&self.arrays, self.divisors(), self.strides(), self.loops.lengths.len())
    }
}

/// `name(o, i)`: element number `i` of a program, its axes in that order.
pub(super) fn reader(program: &Program, order: &[usize], name: &str, kind: &str) -> Result<Generated> {
    let numbered = Numbered::of(arrays(program, None), &program.shape, order);
    let text = format!(
        "{}{}__device__ __forceinline__ {} {name}(const {kind} &o, unsigned i)\n{{\n{}    return {name}_of({});\n}}\n",
        numbered.definition(kind),
        program.function(&format!("{name}_of"))?,
        program.register().name(),
        numbered.places(),
        leaves(program, 0, "")?.join(", "),
    );
    Ok(Generated { text, argument: numbered.argument() })
}

/// `name(o, i, four)`: the four elements from number `i` on, a multiple of four, of a program, its axes in that order; `None` where they do not follow each
/// other in what it reads.
pub(super) fn reader4(
    program: &Program,
    order: &[usize],
    name: &str,
    kind: &str,
) -> Result<Option<Generated>> {
    let numbered = Numbered::of(arrays(program, None), &program.shape, order);
    if !numbered.is_of_fours() {
        return Ok(None);
    }
    let (loads, values) = loads(program, (&numbered.arrays, numbered.strides()), 0, 4, "4")?;
    let text = format!(
        "{}{}__device__ __forceinline__ void {name}(const {kind} &o, unsigned i, {} (&four)[4])\n{{\n{}{loads}#pragma unroll\n    for (int e = 0; e < 4; e++)\n        four[e] = {name}_of({values});\n}}\n",
        numbered.definition(kind),
        program.function(&format!("{name}_of"))?,
        program.register().name(),
        numbered.places(),
    );
    Ok(Some(Generated { text, argument: numbered.argument() }))
}

/// `name(o, i)` for each array: how many elements from its start its element number `i` lies.
pub(super) fn offsets(arrays: &[(&str, &Array)], shape: &[usize], kind: &str) -> Result<Generated> {
    let order = (0..shape.len()).collect::<Vec<_>>();
    let index = numbers(shape, &order);
    let views = std::iter::once(&index).chain(arrays.iter().map(|(_, a)| &a.view)).collect::<Vec<_>>();
    let loops = Loops::over(&views);
    let divisors = loops.lengths.iter().skip(1).copied().collect::<Vec<_>>();
    let axes = loops.lengths.len();
    let mut text = format!(
        "struct {kind} {{\n    Divide by[{}];\n    int stride[{}][{}];\n}};\n",
        divisors.len().max(1),
        arrays.len(),
        axes.max(1)
    );
    for (k, (name, _)) in arrays.iter().enumerate() {
        text.push_str(&format!(
            "__device__ __forceinline__ i64 {name}(const {kind} &o, unsigned i)\n{{\n{}    return place{k};\n}}\n",
            places(&loops, arrays.len())
        ));
    }
    let own = arrays.iter().map(|(_, a)| *a).collect::<Vec<_>>();
    let strides = loops.strides.get(1..).unwrap_or_default();
    let mut argument = argument(&own, &divisors, strides, axes);
    argument.pointers.clear();
    // Without pointers, its size is a multiple of four.
    let words = 3 * divisors.len().max(1) + arrays.len() * axes.max(1);
    argument.words.truncate(words);
    Ok(Generated { text, argument })
}

/// `result(o, value, …)`: writes what becomes of a kernel's value for an element; `None` where the axes that are counted by one number do not lie so
/// that one stride says it.
pub(super) fn writer(program: &Program, output: &Array, access: &Access) -> Result<Option<Generated>> {
    let arrays = arrays(program, Some(output));
    let given = program.leaves.iter().find_map(|l| match l {
        Leaf::Given(register) => Some(register.name()),
        Leaf::Memory(_) => None,
    });
    let given = given.unwrap_or("float");
    let store = format!(
        "    (({0} *)o.at[0])[place0] = store<{0}>(result_of({1}));\n",
        stored_name(output.dtype)?,
        leaves(program, 1, "value")?.join(", ")
    );
    let function = program.function("result_of")?;
    match access {
        Access::Flat(order) | Access::FlatFours(order) => {
            let numbered = Numbered::of(arrays, &program.shape, order);
            let (name, value, end) = match access {
                Access::FlatFours(_) if !numbered.is_of_fours() => return Ok(None),
                Access::FlatFours(_) => {
                    let end = four(program, &numbered.arrays, numbered.strides(), 4)?;
                    ("result4", format!("const {given} (&four)[4], int count"), end)
                }
                _ => ("result", format!("{given} value"), store),
            };
            let text = format!(
                "{}{function}__device__ __forceinline__ void {name}(const Result &o, {value}, unsigned i)\n{{\n{}{end}}}\n",
                numbered.definition("Result"),
                numbered.places(),
            );
            Ok(Some(Generated { text, argument: numbered.argument() }))
        }
        Access::Blocks(groups) | Access::Fours { groups, .. } => {
            let strides = arrays.iter().map(|a| block_strides(&a.view, groups)).collect::<Option<Vec<_>>>();
            let Some(strides) = strides else { return Ok(None) };
            let names = (0..groups.len()).map(|g| format!("unsigned i{g}")).collect::<Vec<_>>();
            let mut body = String::new();
            for (k, own) in strides.iter().enumerate() {
                let terms = own.iter().enumerate().filter(|(_, s)| **s != 0);
                let terms = terms.map(|(g, _)| format!("(int)i{g} * o.stride[{k}][{g}]")).collect::<Vec<_>>();
                let sum = if terms.is_empty() { "0".to_owned() } else { terms.join(" + ") };
                body.push_str(&format!("    int place{k} = {sum};\n"));
            }
            let (name, value) = match access {
                Access::Fours { first, .. } => {
                    body.push_str(&four(program, &arrays, &strides, *first)?);
                    ("result4", format!("const {given} (&four)[4], int count"))
                }
                _ => {
                    body.push_str(&store);
                    ("result", format!("{given} value"))
                }
            };
            let text = format!(
                "{}{function}__device__ __forceinline__ void {name}(const Result &o, {value}, {})\n{{\n{body}}}\n",
                definition("Result", arrays.len(), 0, groups.len()),
                names.join(", "),
            );
            Ok(Some(Generated { text, argument: argument(&arrays, &[], &strides, groups.len()) }))
        }
    }
}

/// Reads, computes and writes four elements beside each other, or `count` of them, as statements: as many at once as lie so.
fn four(program: &Program, arrays: &[&Array], strides: &[Vec<isize>], first: usize) -> Result<String> {
    let (mut text, values) = loads(program, (arrays, strides), 1, first, "count")?;
    let (Some(output), Some(own)) = (arrays.first(), strides.first()) else { return Ok(text) };
    let (kind, last, width) =
        (stored_name(output.dtype)?, own.len().saturating_sub(1), width(output, own, first));
    text.push_str(&format!(
        "    {kind} y[4];\n#pragma unroll\n    for (int e = 0; e < 4; e++)\n        y[e] = store<{kind}>(result_of({values}));\n    store_some<{width}>(({kind} *)o.at[0] + place0, y, o.stride[0][{last}], count);\n"
    ));
    Ok(text)
}

/// Reads what a program reads for four elements beside each other, or for `count` of them, as statements; and the program's arguments for element `e` of
/// them. `before` operands come before those of the program.
fn loads(
    program: &Program,
    (arrays, strides): (&[&Array], &[Vec<isize>]),
    before: usize,
    first: usize,
    count: &str,
) -> Result<(String, String)> {
    let mut text = String::new();
    let mut values = Vec::new();
    let mut operands = arrays.iter().zip(strides).enumerate().skip(before);
    for leaf in &program.leaves {
        if matches!(leaf, Leaf::Given(_)) {
            values.push("four[e]".to_owned());
            continue;
        }
        let missing = || ScoreError::internal("an operand without strides");
        let (at, (array, own)) = operands.next().ok_or_else(missing)?;
        let kind = stored_name(array.dtype)?;
        let from = format!("(const {kind} *)o.at[{at}]");
        if own.last() == Some(&0) {
            text.push_str(&format!("    {kind} x{at} = ({from})[place{at}];\n"));
            values.push(format!("x{at}"));
        } else {
            let (width, last) = (width(array, own, first), own.len().saturating_sub(1));
            text.push_str(&format!(
                "    {kind} x{at}[4];\n    load_some<{width}>(x{at}, {from} + place{at}, o.stride[{at}][{last}], {count});\n"
            ));
            values.push(format!("x{at}[e]"));
        }
    }
    Ok((text, values.join(", ")))
}

/// How many elements beside each other are one of that many times the size, where the first one's number is a multiple of `first`.
fn width(array: &Array, strides: &[isize], first: usize) -> usize {
    let size = array.view.size;
    let Some((last, others)) = strides.split_last() else { return 1 };
    let is_whole = |n: &usize| {
        let bytes = n * size;
        *n <= first
            && *last == size as isize
            && array.view.offset.is_multiple_of(bytes)
            && others.iter().all(|s| s.unsigned_abs().is_multiple_of(bytes))
    };
    [4, 2].into_iter().find(is_whole).unwrap_or(1)
}

/// One stride for each group of axes; `None` where the axes of one do not follow each other without a gap.
pub(super) fn block_strides(view: &View, groups: &[Vec<usize>]) -> Option<Vec<isize>> {
    groups.iter().map(|axes| block_stride(view, axes)).collect()
}

pub(super) fn block_stride(view: &View, axes: &[usize]) -> Option<isize> {
    let mut found: Option<(isize, usize)> = None;
    for axis in axes.iter().rev().filter(|a| view.length(**a) != 1) {
        let stride = view.stride(*axis);
        found = match found {
            None => Some((stride, view.length(*axis))),
            Some((inner, length)) if stride == inner * length as isize => {
                Some((inner, length * view.length(*axis)))
            }
            Some(_) => return None,
        };
    }
    Some(found.map_or(0, |(stride, _)| stride))
}

/// `map_elements(o, i)`: reads, computes and writes so many elements from number `i` on; and how many that is.
pub(super) fn mapper(program: &Program, output: &Array) -> Result<(Generated, usize)> {
    let numbered = Numbered::of(arrays(program, Some(output)), &program.shape, &output.view.order());
    let vector = vector(&numbered.arrays, &numbered.loops);
    let mut body = numbered.places();
    let mut values = Vec::new();
    let operands = numbered.arrays.iter().zip(numbered.strides()).enumerate();
    for (k, (array, strides)) in operands.skip(1) {
        let (kind, repeats) = (stored_name(array.dtype)?, strides.last() == Some(&0));
        match vector {
            1 => values.push(format!("((const {kind} *)o.at[{k}])[place{k}]")),
            _ if repeats || strides.is_empty() => {
                body.push_str(&format!("    {kind} a{k} = ((const {kind} *)o.at[{k}])[place{k}];\n"));
                values.push(format!("a{k}"));
            }
            n => {
                body.push_str(&format!(
                    "    Vector<{kind}, {n}> a{k} = *(const Vector<{kind}, {n}> *)((const {kind} *)o.at[{k}] + place{k});\n"
                ));
                values.push(format!("a{k}.at[j]"));
            }
        }
    }
    let (kind, values) = (stored_name(output.dtype)?, values.join(", "));
    body.push_str(&match vector {
        1 => format!("    (({kind} *)o.at[0])[place0] = store<{kind}>(map_of({values}));\n"),
        n => format!(
            "    Vector<{kind}, {n}> y;\n#pragma unroll\n    for (int j = 0; j < {n}; j++)\n        y.at[j] = store<{kind}>(map_of({values}));\n    *(Vector<{kind}, {n}> *)(({kind} *)o.at[0] + place0) = y;\n"
        ),
    });
    let text = format!(
        "#define VECTOR {vector}\n{}{}__device__ __forceinline__ void map_elements(const Map &o, unsigned i)\n{{\n{body}}}\n",
        numbered.definition("Map"),
        program.function("map_of")?,
    );
    Ok((Generated { text, argument: numbered.argument() }, vector))
}

/// How many elements a thread moves at once: 16 bytes of the widest operand, where all lie so that it may.
fn vector(arrays: &[&Array], loops: &Loops) -> usize {
    let Some(length) = loops.lengths.last() else { return 1 };
    let widest = arrays.iter().map(|a| a.view.size).max().unwrap_or(1).max(1);
    let strides = loops.strides.get(1..).unwrap_or_default();
    let fits = |n: usize| {
        length % n == 0
            && arrays.iter().zip(strides).enumerate().all(|(at, (array, strides))| {
                let bytes = (n * array.view.size) as isize;
                let Some((last, outer)) = strides.split_last() else { return false };
                let is_together = *last == array.view.size as isize;
                let is_aligned =
                    array.view.offset as isize % bytes == 0 && outer.iter().all(|s| s % bytes == 0);
                (is_together && is_aligned) || (at > 0 && *last == 0)
            })
    };
    [8, 4, 2].into_iter().filter(|n| n * widest <= 16).find(|n| fits(*n)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::super::program::Register;
    use super::*;
    use crate::tensor::DType;

    fn array(shape: &[usize], order: &[usize]) -> Array {
        Array { view: View::ordered(Storage(1), shape, order, 4), dtype: DType::F32 }
    }

    #[test]
    fn division_without_dividing_is_division() {
        for by in [1usize, 2, 3, 5, 7, 10, 49, 64, 255, 1000, 65537, 2_147_483_647] {
            let [_, magic, shift] = divide(by).map(u64::from);
            for n in [0u64, 1, 2, 6, 63, 64, 65, 999, 65_536, 1_000_003, 2_147_483_646, 2_147_483_647] {
                let quotient = (((n * magic) >> 32) + n) >> shift;
                assert_eq!(quotient, n / by as u64, "{n} / {by}");
            }
        }
    }

    #[test]
    fn what_lies_alike_is_one_axis_and_moved_in_vectors() {
        let x = Program::of(array(&[2, 3, 4, 8], &[0, 1, 2, 3])).unwrap();
        let (generated, vector) = mapper(&x, &array(&[2, 3, 4, 8], &[0, 1, 2, 3])).unwrap();
        assert_eq!(vector, 4);
        assert!(generated.text.contains("Divide by[1]") && !generated.text.contains("quotient"));
        // Channels last into channels first: elements one by one.
        let (generated, vector) = mapper(&x, &array(&[2, 3, 4, 8], &[0, 2, 3, 1])).unwrap();
        assert_eq!(vector, 1);
        assert!(generated.text.contains("quotient"));
        // A bias along the last axis.
        let bias = array(&[8], &[0]);
        let bias = Program::of(bias).unwrap().broadcast(&[2, 3, 4, 8]).unwrap();
        let sum = Program::call("add", Register::F32, &[x, bias]).unwrap();
        assert_eq!(mapper(&sum, &array(&[2, 3, 4, 8], &[0, 1, 2, 3])).unwrap().1, 4);
    }

    #[test]
    fn results_are_written_by_as_many_as_lie_together() {
        let groups = vec![vec![0, 2, 3], vec![1]];
        // (length of the last axis in memory, the first number's multiple, what is written at once)
        let cases = [(8, 4, 4), (8, 2, 2), (8, 1, 1), (10, 4, 2), (7, 4, 1)];
        for (channels, first, width) in cases {
            let shape = [2, channels, 3, 4];
            let output = array(&shape, &[0, 2, 3, 1]);
            let bias = Program::of(array(&[channels, 1, 1], &[0, 1, 2])).unwrap().broadcast(&shape).unwrap();
            let sum = Program::given(Register::F32, &shape);
            let sum = Program::call("add", Register::F32, &[sum, bias]).unwrap();
            let access = Access::Fours { groups: groups.clone(), first };
            let text = writer(&sum, &output, &access).unwrap().unwrap().text;
            assert!(text.contains(&format!("store_some<{width}>")), "{channels} {first}: {text}");
            // A vector of channels begins where each group does, too.
            assert!(text.contains(&format!("load_some<{}>", first)), "{channels} {first}: {text}");
        }
        // Rows: a column has nothing beside it.
        let access = Access::Fours { groups: vec![vec![0], vec![1]], first: 4 };
        let given = Program::given(Register::F32, &[8, 8]);
        let text = writer(&given, &array(&[8, 8], &[1, 0]), &access).unwrap().unwrap().text;
        assert!(text.contains("store_some<1>"), "{text}");
    }

    #[test]
    fn groups_of_axes_have_one_stride_or_none() {
        let view = array(&[2, 3, 4, 5], &[0, 2, 3, 1]).view;
        let groups = |g: &[&[usize]]| g.iter().map(|a| a.to_vec()).collect::<Vec<_>>();
        assert_eq!(block_strides(&view, &groups(&[&[0, 2, 3], &[1]])), Some(vec![12, 4]));
        assert_eq!(block_strides(&view, &groups(&[&[0, 1], &[2]])), None);
    }
}

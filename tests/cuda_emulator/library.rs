//! What the emulated cuBLASLt refuses, because the real one documents it as wrong; and that a product is as late, and as much a part of a graph, as a kernel.

use std::ffi::{c_int, c_void};

use cudarc::driver::sys::{CUgraphInstantiate_flags as GraphFlags, CUstreamCaptureMode as Mode};
use cudarc::driver::{DevicePtr, DevicePtrMut};
use libloading::{Library, Symbol};

use super::inside::{Gpu, assert_near};

type Raw = *mut c_void;

const INVALID_VALUE: c_int = 7;
const EXECUTION_FAILED: c_int = 13;
const NOT_SUPPORTED: c_int = 15;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Advice {
    code: [u64; 8],
    workspace: usize,
    status: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

/// Calls a function of the library by its name.
macro_rules! call {
    ($library:expr, $name:expr, $($argument:expr => $kind:ty),*) => {{
        // SAFETY: the types are the function's in cublasLt.h, and so are the arguments', right or wrong in what they say.
        unsafe {
            let function: Symbol<unsafe extern "C" fn($($kind),*) -> c_int> = $library.get($name).unwrap();
            function($($argument),*)
        }
    }};
}

fn set<T>(library: &Library, name: &str, object: Raw, attribute: c_int, value: T) -> c_int {
    call!(library, name, object => Raw, attribute => c_int, (&raw const value).cast() => *const c_void, size_of::<T>() => usize)
}

fn layout(library: &Library, kind: c_int, rows: u64, columns: u64, stride: i64) -> Raw {
    let mut at = std::ptr::null_mut();
    let status = call!(library, "cublasLtMatrixLayoutCreate", &mut at => *mut Raw, kind => c_int, rows => u64, columns => u64, stride => i64);
    assert_eq!(status, 0);
    at
}

/// What a product is ordered with.
#[derive(Clone, Copy)]
struct Given {
    desc: Raw,
    layouts: [Raw; 3],
    places: [u64; 3],
    workspace: (u64, usize),
    stream: Raw,
}

pub(crate) fn refusals() {
    let gpu = Gpu::new(0);
    // SAFETY: the emulated library; beside the driver.
    let library = unsafe { Library::new("libcublasLt.so.13") }.unwrap();
    let library = &library;
    let (mut handle, mut desc, mut preference) =
        (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
    assert_eq!(call!(library, "cublasLtCreate", &mut handle => *mut Raw), 0);
    let create = |compute| {
        let mut at = std::ptr::null_mut();
        (call!(library, "cublasLtMatmulDescCreate", &mut at => *mut Raw, compute => c_int, 0 => c_int), at)
    };
    assert_eq!(create(64).0, NOT_SUPPORTED, "sums of 16 bits");
    assert_eq!(call!(library, "cublasLtMatmulDescCreate", &mut desc => *mut Raw, 68 => c_int, 0 => c_int), 0);
    assert_eq!(call!(library, "cublasLtMatmulPreferenceCreate", &mut preference => *mut Raw), 0);
    // Attributes: of another size, unknown, of another object.
    let describe =
        |attribute, value: u32| set(library, "cublasLtMatmulDescSetAttribute", desc, attribute, value);
    assert_eq!(
        (describe(7, 4), describe(7, 6), describe(7, 32), describe(99, 1)),
        (0, 0, INVALID_VALUE, INVALID_VALUE)
    );
    assert_eq!(set(library, "cublasLtMatmulDescSetAttribute", desc, 8, 256u32), INVALID_VALUE);
    assert_eq!(set(library, "cublasLtMatmulDescSetAttribute", handle, 7, 4u32), INVALID_VALUE);
    assert_eq!(describe(7, 1), 0);
    for (attribute, align) in [(5, 16u32), (6, 16), (7, 4), (8, 4)] {
        assert_eq!(set(library, "cublasLtMatmulPreferenceSetAttribute", preference, attribute, align), 0);
    }
    assert_eq!(set(library, "cublasLtMatmulPreferenceSetAttribute", preference, 1, 4096u64), 0);

    // d = a · b: [2, 3] · [3, 2], in columns.
    let (a, b) = ([1f32, 2.0, 3.0, 4.0, 5.0, 6.0], [1f32, 0.0, -1.0, 2.0, 1.0, 0.5]);
    let expected = [-4.0, -4.0, 7.5, 11.0];
    let a = gpu.stream.clone_htod(&a).unwrap();
    let b = gpu.stream.clone_htod(&b).unwrap();
    let mut d = gpu.stream.alloc_zeros::<f32>(4).unwrap();
    let mut room = gpu.stream.alloc_zeros::<u8>(4096).unwrap();
    let layouts = [layout(library, 0, 2, 3, 2), layout(library, 0, 3, 2, 3), layout(library, 0, 2, 2, 2)];
    let given = Given {
        desc,
        layouts,
        places: [a.device_ptr(&gpu.stream).0, b.device_ptr(&gpu.stream).0, d.device_ptr_mut(&gpu.stream).0],
        workspace: (room.device_ptr_mut(&gpu.stream).0, 4096),
        stream: gpu.stream.cu_stream().cast(),
    };
    let advise = |layouts: [Raw; 3]| {
        let (mut advice, mut count) = ([Advice::default(); 8], 0);
        let [a, b, d] = layouts;
        let status = call!(library, "cublasLtMatmulAlgoGetHeuristic", handle => Raw, desc => Raw, a => Raw, b => Raw, d => Raw, d => Raw,
            preference => Raw, 8 => c_int, advice.as_mut_ptr() => *mut Advice, &mut count => *mut c_int);
        (status, count, advice)
    };
    let multiply = |given: Given, code: [u64; 8]| {
        let ([a, b, d], [la, lb, ld], (workspace, bytes)) = (given.places, given.layouts, given.workspace);
        let (one, zero) = (1f32, 0f32);
        call!(library, "cublasLtMatmul", handle => Raw, given.desc => Raw, &one => *const f32, a => u64, la => Raw, b => u64, lb => Raw,
            &zero => *const f32, d => u64, ld => Raw, d => u64, ld => Raw, &code => *const [u64; 8], workspace => u64, bytes => usize, given.stream => Raw)
    };
    let (status, count, advice) = advise(layouts);
    assert_eq!((status, count), (0, 2));
    let (first, second) = (advice[0], advice[1]);
    assert!(first.workspace > 0 && second.workspace == 0);
    for wrong in [
        [layout(library, 0, 2, 4, 2), layouts[1], layouts[2]],
        [layout(library, 0, 2, 3, 1), layouts[1], layouts[2]],
        [layouts[0], layouts[1], layout(library, 0, 3, 2, 3)],
    ] {
        assert_eq!(advise(wrong).0, INVALID_VALUE);
    }
    assert_eq!(advise([layouts[0], layout(library, 2, 3, 2, 3), layouts[2]]).0, NOT_SUPPORTED, "types");

    // In a capture its code must be there already.
    gpu.stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    assert_eq!(multiply(given, first.code), EXECUTION_FAILED);
    drop(gpu.stream.end_capture(GraphFlags(0)).unwrap());
    for advice in [first, second] {
        gpu.stream.memset_zeros(&mut d).unwrap();
        gpu.stream.synchronize().unwrap();
        assert_eq!(multiply(given, advice.code), 0);
        assert_near("a product", &gpu.stream.clone_dtoh(&d).unwrap(), &expected);
        // Captured, it is done when the graph is, as often as that is.
        gpu.stream.memset_zeros(&mut d).unwrap();
        gpu.stream.synchronize().unwrap();
        gpu.stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        assert_eq!(multiply(given, advice.code), 0);
        let graph = gpu.stream.end_capture(GraphFlags(0)).unwrap().unwrap();
        assert_near("nothing yet", &gpu.stream.clone_dtoh(&d).unwrap(), &[0.0; 4]);
        for _ in 0..2 {
            gpu.stream.memset_zeros(&mut d).unwrap();
            graph.launch().unwrap();
            assert_near("a graph", &gpu.stream.clone_dtoh(&d).unwrap(), &expected);
        }
    }

    let mut host = [0f32; 4];
    let [at_a, at_b, at_d] = given.places;
    let mut changed = first.code;
    changed[0] ^= 1;
    let lies_otherwise = [layouts[0], layouts[1], layout(library, 0, 2, 2, 3)];
    for (what, wrong, code, status) in [
        (
            "less workspace",
            Given { workspace: (given.workspace.0, first.workspace - 1), ..given },
            first.code,
            INVALID_VALUE,
        ),
        ("no workspace", Given { workspace: (0, 4096), ..given }, first.code, INVALID_VALUE),
        ("less aligned", Given { places: [at_a + 4, at_b, at_d], ..given }, first.code, INVALID_VALUE),
        ("in place", Given { places: [at_a, at_b, at_a], ..given }, first.code, INVALID_VALUE),
        (
            "host memory",
            Given { places: [at_a, at_b, host.as_mut_ptr() as u64], ..given },
            first.code,
            INVALID_VALUE,
        ),
        ("behind its memory", Given { places: [at_a, at_b, at_d + 4], ..given }, first.code, INVALID_VALUE),
        ("no stream", Given { stream: desc, ..given }, first.code, INVALID_VALUE),
        ("no description", Given { desc: handle, ..given }, first.code, INVALID_VALUE),
        ("no algorithm", given, changed, NOT_SUPPORTED),
        (
            "another product's algorithm",
            Given { layouts: lies_otherwise, ..given },
            first.code,
            NOT_SUPPORTED,
        ),
    ] {
        assert_eq!(multiply(wrong, code), status, "{what}");
    }
    assert_eq!(call!(library, "cublasLtMatrixLayoutDestroy", layouts[0] => Raw), 0);
    assert_eq!(
        call!(library, "cublasLtMatrixLayoutDestroy", layouts[0] => Raw),
        INVALID_VALUE,
        "destroyed twice"
    );
    assert_eq!(multiply(given, first.code), INVALID_VALUE, "of what is destroyed");

    // A graph whose memory is gone.
    let given = Given { layouts: [layout(library, 0, 2, 3, 2), layouts[1], layouts[2]], ..given };
    gpu.stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    assert_eq!(multiply(given, second.code), 0);
    let graph = gpu.stream.end_capture(GraphFlags(0)).unwrap().unwrap();
    gpu.stream.synchronize().unwrap();
    drop(d);
    gpu.stream.synchronize().unwrap();
    let launched = graph.launch().and_then(|()| gpu.stream.synchronize());
    assert!(launched.is_err(), "the context is lost");
}

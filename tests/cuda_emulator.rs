//! The emulated driver that kernels are tested on without a GPU, through the unmodified `cudarc`, held to what it promises by small kernels of its own.
//!
//! Each test runs itself again in processes of their own, one for every order of threads and every time of work, since a process binds to one driver.
//! Without a C++ compiler there is no emulated driver, and the tests say so.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]
#![cfg(all(feature = "cuda", target_os = "linux"))]

#[path = "cuda_emulator/devices.rs"]
mod devices;
#[path = "../hardware-tests/emulated.rs"]
mod emulated;
#[path = "cuda_emulator/hopper.rs"]
mod hopper;
#[path = "cuda_emulator/inside.rs"]
mod inside;
#[path = "cuda_emulator/library.rs"]
mod library;
#[path = "cuda_emulator/mutants.rs"]
mod mutants;
#[path = "cuda_emulator/products.rs"]
mod products;
#[path = "cuda_emulator/sources.rs"]
mod sources;
#[path = "cuda_emulator/strictness.rs"]
mod strictness;

use std::process::Output;

use emulated::{SCHEDULES, is_inside};

/// The tests that mutants fail.
const KERNELS: &str = "kernels_compute_what_they_say";
const PRODUCTS: &str = "products_are_those_of_tensor_cores";
const WIDE_PRODUCTS: &str = "products_of_warpgroups_are_those_of_hopper";

/// Runs a test of this file again on that driver; it may fail. `None` where there is no driver.
fn run_inside(test: &str, (order, time): (&str, &str), also: &[(&str, &str)]) -> Option<Output> {
    let mut command = emulated::again(test)?;
    command.env("CUDA_EMULATOR_ORDER", order).env("CUDA_EMULATOR_TIME", time);
    Some(command.envs(also.iter().copied()).output().unwrap())
}

/// Runs a test in all schedules; it must pass in each. What it said, all together.
fn in_every_schedule(test: &str, also: &[(&str, &str)]) -> String {
    let schedule = |(order, time): &(&str, &str)| {
        let mut all = vec![("CUDA_EMULATOR_ORDER", *order), ("CUDA_EMULATOR_TIME", *time)];
        all.extend(also);
        emulated::passes(test, &all)
    };
    SCHEDULES.iter().map(schedule).collect()
}

/// A device of another compute capability must refuse what a test does, in these words.
fn is_refused(test: &str, capability: &str, why: &str) {
    let other = [("CUDA_EMULATOR_CAPABILITY", capability)];
    let Some(ran) = run_inside(test, SCHEDULES[0], &other) else { return };
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(!ran.status.success() && said.contains(why), "{said}");
}

#[test]
fn kernels_compute_what_they_say() {
    match is_inside() {
        true => inside::every_kernel(),
        false => drop(in_every_schedule(KERNELS, &[])),
    }
}

#[test]
fn products_are_those_of_tensor_cores() {
    match is_inside() {
        true => products::every_kind(),
        false => {
            in_every_schedule(PRODUCTS, &[]);
            is_refused(PRODUCTS, "86", "which compute capability 8.9 is the first to have");
        }
    }
}

#[test]
fn products_of_warpgroups_are_those_of_hopper() {
    match is_inside() {
        true => hopper::products(),
        false => {
            in_every_schedule(WIDE_PRODUCTS, &[]);
            is_refused(WIDE_PRODUCTS, "80", "what compute capability 9.0 alone has");
        }
    }
}

#[test]
fn tensors_that_no_copy_takes_are_refused() {
    match is_inside() {
        true => hopper::refusals(),
        false => {
            let said = in_every_schedule("tensors_that_no_copy_takes_are_refused", &[]);
            let is_said = |what| said.is_empty() || said.contains(what);
            assert!(is_said("stride 0 is 136 bytes: expected a multiple of 16 below 2^40"), "{said}");
            assert!(is_said("the map lies at no multiple of 64 bytes"), "{said}");
        }
    }
}

#[test]
fn streams_keep_their_order_and_graphs_can_be_replayed() {
    match is_inside() {
        true => strictness::streams_and_graphs(),
        false => drop(in_every_schedule("streams_keep_their_order_and_graphs_can_be_replayed", &[])),
    }
}

#[test]
fn what_a_driver_refuses_is_refused() {
    match is_inside() {
        true => strictness::refusals(),
        false => drop(in_every_schedule("what_a_driver_refuses_is_refused", &[])),
    }
}

#[test]
fn what_the_library_of_products_documents_as_wrong_is_refused() {
    match is_inside() {
        true => library::refusals(),
        false => {
            let said = in_every_schedule("what_the_library_of_products_documents_as_wrong_is_refused", &[]);
            let is_said = |what| said.is_empty() || said.contains(what);
            assert!(is_said("d does not lie in device memory any more"), "{said}");
        }
    }
}

#[test]
fn what_a_thread_must_not_do_loses_the_context() {
    let also = [("CUDA_EMULATOR_DEVICES", "8")];
    match is_inside() {
        true => strictness::mistakes(),
        false => {
            let said = in_every_schedule("what_a_thread_must_not_do_loses_the_context", &also);
            let names_line = |what| said.is_empty() || said.contains(what);
            assert!(names_line("an index beyond 'float [4]': 4"), "{said}");
            assert!(names_line("its mask of lanes, 2, is without itself, lane 0"), "{said}");
        }
    }
}

#[test]
fn modules_are_sources_and_nothing_else() {
    match is_inside() {
        true => strictness::modules(),
        false => {
            let cache = tempfile::tempdir().unwrap();
            let also = [("CUDA_EMULATOR_CACHE", cache.path().to_str().unwrap())];
            let said = in_every_schedule("modules_are_sources_and_nothing_else", &also);
            let kept = cache.path().read_dir().unwrap().map(|file| file.unwrap().path()).collect::<Vec<_>>();
            assert!(kept.iter().all(|file| file.extension().is_some_and(|e| e == "so")), "{kept:?}");
            assert!(said.is_empty() || kept.len() == 3, "each text that compiles, once: {kept:?}");
            let is_said = |what| said.is_empty() || said.contains(what);
            assert!(is_said("there_is_no_such_word"), "the compiler's lines: {said}");
            assert!(is_said("begin with the line '// CUDA C++'"), "{said}");
        }
    }
}

#[test]
fn devices_keep_apart() {
    match is_inside() {
        true => devices::apart(),
        false => drop(in_every_schedule("devices_keep_apart", &[("CUDA_EMULATOR_DEVICES", "2")])),
    }
}

#[test]
fn faults_come_when_they_are_asked_for() {
    let asked = [("CUDA_EMULATOR_FAIL", "launch:2,alloc:3"), ("CUDA_EMULATOR_VERSION", "12000")];
    match is_inside() {
        true => devices::faults(),
        false => drop(in_every_schedule("faults_come_when_they_are_asked_for", &asked)),
    }
}

#[test]
fn what_was_not_freed_is_reported() {
    if is_inside() {
        return devices::leaks();
    }
    let to = tempfile::NamedTempFile::new().unwrap();
    let path = to.path().to_str().unwrap();
    for (leak, bytes) in [("0", 0), ("1", 4096)] {
        let also = [("CUDA_EMULATOR_REPORT", path), (devices::LEAK, leak)];
        let Some(ran) = run_inside("what_was_not_freed_is_reported", SCHEDULES[0], &also) else { return };
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let report = std::fs::read_to_string(path).unwrap();
        assert!(report.starts_with(&format!("device {bytes} bytes in {leak} allocations; ")), "{report}");
    }
}

#[test]
fn mistakes_in_kernels_are_found() {
    mutants::all();
}

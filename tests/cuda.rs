//! The CUDA device itself: memory, kernels, and what is said when something is wrong.

mod device;

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mirrorgan_engine::engine::device::{cuda, open, with};
use mirrorgan_engine::engine::nn::{Adam, AdamConfig, Initializer, Scope, Source, Store};
use mirrorgan_engine::engine::tensor::{DType, Device, Tensor, backward, backward_from};
use mirrorgan_engine::error::{Error, caught};

/// Memory is counted for the whole device, so these tests wait for each other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32 * 0.25 - 7.0).collect()
}

#[test]
fn values_go_there_and_come_back() {
    let _alone = alone();
    let Some(device) = device::cuda() else { return };
    for n in [0, 1, 5, 1000, 300_000] {
        let x = Tensor::from_vec(ramp(n), [n]).to(device);
        assert_eq!(x.device(), *device);
        assert_eq!(x.to_vec(), ramp(n));
        assert_eq!(
            x.cast(DType::Bf16).cast(DType::F32).to_vec(),
            x.to(&Device::Cpu).cast(DType::Bf16).to_vec()
        );
    }
    with(device, || {
        let mut x = Tensor::full([3, 4], 2.5);
        assert_eq!(x.to_vec(), [2.5; 12]);
        x = x.cast(DType::Bf16);
        x.fill(-1.25);
        assert_eq!(x.to_vec(), [-1.25; 12]);
    });
}

#[test]
fn a_tensor_that_is_shared_is_copied_before_it_is_written() {
    let _alone = alone();
    let Some(device) = device::cuda() else { return };
    let x = Tensor::from_vec(ramp(10), [10]).to(device);
    let mut y = x.clone();
    y.fill(1.0);
    assert_eq!((x.to_vec(), y.to_vec()), (ramp(10), vec![1.0; 10]));
}

#[test]
fn gradients_that_meet_are_added() {
    let _alone = alone();
    let Some(device) = device::cuda() else { return };
    with(device, || {
        let x = Tensor::scalar(3.0).leaf();
        let twice = mirrorgan_engine::engine::tensor::tape::record1(x.detach(), [&x, &x], |dy, _| {
            [Some(dy.clone()), Some(dy)]
        });
        assert_eq!(backward(&twice, &[&x]).get(&x).unwrap().to_vec(), [2.0]);
    });
}

#[test]
fn memory_that_is_given_back_is_given_out_again() {
    let _alone = alone();
    let Some(Device::Cuda(gpu)) = device::cuda() else { return };
    drop(gpu.scratch(777_777));
    let before = gpu.usage();
    let block = gpu.scratch(777_000);
    if before.kept > 0 {
        assert_eq!(gpu.usage().kept + gpu.usage().live, before.kept + before.live);
    }
    assert!(gpu.usage().live > before.live && gpu.usage().peak >= gpu.usage().live);
    drop(block);
    assert_eq!(gpu.usage().live, before.live);
}

#[test]
fn memory_that_is_not_there_is_an_error_that_says_who_asked() {
    let _alone = alone();
    let Some(Device::Cuda(gpu)) = device::cuda() else { return };
    let error = caught(|| mirrorgan_engine::engine::tensor::range("the test", || gpu.scratch(1 << 44)))
        .err()
        .unwrap();
    assert!(matches!(error, Error::OutOfMemory { .. }));
    let text = error.to_string();
    assert!(text.contains("the test asked for 67108864.0 MiB") && text.contains("cuda:0"), "{text}");
    assert_eq!(Tensor::from_vec(ramp(4), [4]).to(device::cuda().unwrap()).to_vec(), ramp(4));
}

#[test]
fn an_arenas_memory_is_given_out_inside_it_alone() {
    let _alone = alone();
    let Some(Device::Cuda(gpu)) = device::cuda() else { return };
    if std::env::var("ENGINE_EXACT_MEMORY").is_ok_and(|v| v == "1") {
        return child("an_arenas_memory_is_given_out_inside_it_alone", &[]);
    }
    let address = |buffer: &cuda::Buffer| buffer.view().address();
    let arena = gpu.arena();
    let inside = arena.enter();
    let block = gpu.scratch(5_000);
    let first = address(&block);
    drop(inside);
    drop(block);
    let outside = gpu.scratch(5_000);
    assert_ne!(address(&outside), first);
    let inside = arena.enter();
    assert_eq!(address(&gpu.scratch(5_000)), first);
    drop(inside);
    drop(arena);
    assert_eq!(address(&gpu.scratch(5_000)), first);
}

#[test]
fn all_kernels_of_a_precision_can_be_loaded_at_once() {
    let _alone = alone();
    let Some(Device::Cuda(gpu)) = device::cuda() else { return };
    gpu.load_kernels(DType::F32).unwrap();
}

/// A test of this program once more, in a process with another environment. Emulated only.
fn child(test: &str, environment: &[(&str, &str)]) {
    if std::env::var_os("ENGINE_TEST_DEVICE").is_some_and(|v| !v.is_empty()) {
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env("ENGINE_TEST_CHILD", "1")
        .env("ENGINE_EXACT_MEMORY", "0");
    let output = command.envs(environment.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{test}: {}", String::from_utf8_lossy(&output.stderr));
}

fn is_child() -> bool {
    std::env::var_os("ENGINE_TEST_CHILD").is_some()
}

/// Under CUDAEMU_DEFER a copy from pageable memory reads it when the work is done: what was freed is lost. Together the
/// values are larger than the ring of pinned memory.
#[test]
fn values_may_be_freed_as_soon_as_they_were_given() {
    let Some(device) = device::cuda() else { return };
    if !is_child() {
        return child("values_may_be_freed_as_soon_as_they_were_given", &[("CUDAEMU_DEFER", "1")]);
    }
    const N: usize = 3 << 20;
    with(device, || {
        let give = |i: usize, n: usize| (i, Tensor::from_vec(vec![i as f32; n], [n]));
        let large: Vec<_> = (0..5).map(|i| give(i, N)).collect();
        let small: Vec<_> = (0..400).map(|i| give(i, 1 + i % 7)).collect();
        for (i, x) in large.into_iter().chain(small) {
            assert!(x.to_vec().iter().all(|&v| v == i as f32), "{i}");
        }
    });
}

/// The second device's context stands where the first one's memory is given back, or it is opened itself.
#[test]
fn two_devices_are_used_by_turns() {
    let Some(first) = device::cuda() else { return };
    if !is_child() {
        let environment = [("CUDAEMU_DEVICES", "2"), ("ENGINE_EXACT_MEMORY", "1")];
        return child("two_devices_are_used_by_turns", &environment);
    }
    let full = |device: &Device| with(device, || Tensor::full([8], 1.5));
    let a = full(first);
    let second = open("cuda:1").unwrap().0;
    assert_eq!(a.cast(DType::Bf16).to_vec(), [1.5; 8]);
    let b = full(&second);
    drop(a);
    assert_eq!(b.cast(DType::Bf16).to_vec(), [1.5; 8]);
}

/// The weight is shared, so Adam copies it before it writes, which finds no room while it holds the parameter.
#[test]
fn memory_that_runs_out_in_a_step_of_adam_leaves_the_parameter_usable() {
    let Some(device) = device::cuda() else { return };
    if !is_child() {
        let test = "memory_that_runs_out_in_a_step_of_adam_leaves_the_parameter_usable";
        return child(test, &[("CUDAEMU_MEM_MB", "18")]);
    }
    with(device, || {
        let source = Source::Fill(Box::new(|_, shape| vec![1.0; shape.iter().product()]));
        let make = |scope: &Scope| scope.param("w", &[1 << 20], 1, Initializer::Uniform(1.0));
        let (param, store) = Store::build(source, make).unwrap();
        let config = AdamConfig { lr: 0.1, beta1: 0.5, beta2: 0.999, epsilon: 1e-8 };
        let mut adam = Adam::new(store.params(), config);
        for _ in 0..2 {
            let shared = param.tensor();
            let one = Tensor::full([1 << 20], 1.0);
            let mut grads = backward_from([(&shared, one)], &[&shared]);
            let error = caught(|| adam.step(&mut grads)).err().unwrap();
            assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
        }
        assert_eq!(param.tensor().to_vec()[..4], [1.0; 4]);
    });
}

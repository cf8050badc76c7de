//! The CUDA device itself: memory, kernels, and what is said when something is wrong.

mod device;

use std::sync::{Mutex, MutexGuard, PoisonError};

use mirrorgan_engine::engine::device::with;
use mirrorgan_engine::engine::tensor::{DType, Device, Tensor, backward};
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

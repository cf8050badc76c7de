//! `CUDAEMU_STICKY`.  One test, alone in its process: the first fault is every later call's.

mod common;

use common::{kernel, load, settings};
use cudaemu::driver::error::Status;
use cudaemu::driver::{context, event, launch, memory, module, stream};
use cudaemu::settings::Settings;
use std::ptr;

#[test]
fn every_later_call_fails_with_the_first_fault() {
    let settings = Settings { sticky_errors: true, ..settings(1) };
    settings.scope(|| unsafe { fault_and_go_on() });
}

unsafe fn fault_and_go_on() {
    let (mut device, mut loaded) = (0, ptr::null_mut());
    let ptx = kernel("ld.global.u32 %r0, [%q];");
    let function = load(&ptx).unwrap();
    assert_eq!(memory::cuMemAlloc_v2(&mut device, 64), Status::SUCCESS);
    let launch = |q: u64| {
        let arguments = [(&raw const device).cast::<u8>(), (&raw const q).cast()];
        launch::cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, ptr::null_mut(), arguments.as_ptr(), ptr::null_mut())
    };
    let first = Status::MISALIGNED_ADDRESS;
    assert_eq!(launch(device), Status::SUCCESS);
    assert_eq!(launch(device + 1), first);
    assert_eq!(launch(1), first);
    let (mut address, mut handle, mut word, mut size) = (0, ptr::null_mut(), 0u32, 0);
    let host = (&raw mut word) as u64;
    assert_eq!(stream::cuCtxSynchronize(), first);
    assert_eq!(stream::cuStreamSynchronize(ptr::null_mut()), first);
    assert_eq!(stream::cuStreamCreate(&mut handle, 0), first);
    assert_eq!(event::cuEventCreate(&mut handle, 0), first);
    assert_eq!(memory::cuMemAlloc_v2(&mut address, 4), first);
    assert_eq!(memory::cuMemAllocAsync(&mut address, 4, ptr::null_mut()), first);
    assert_eq!(memory::cuMemHostAlloc(&mut handle, 4, 0), first);
    assert_eq!(memory::cuMemcpyHtoD_v2(device, host, 4), first);
    assert_eq!(memory::cuMemcpyDtoH_v2(host, device, 4), first);
    assert_eq!(memory::cuMemcpyDtoHAsync_v2(host, device, 4, ptr::null_mut()), first);
    assert_eq!(memory::cuMemsetD8Async(device, 0, 4, ptr::null_mut()), first);
    assert_eq!(memory::cuMemFree_v2(device), first);
    assert_eq!(context::cuMemGetInfo_v2(&mut size, &mut 0), first);
    assert_eq!(module::cuModuleLoadData(&mut loaded, c"".as_ptr().cast()), first);
    let mut devices = 0;
    assert_eq!(context::cuDeviceGetCount(&mut devices), Status::SUCCESS);
}

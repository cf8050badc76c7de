//! What the driver says of itself and its devices, and its memory's limits.

mod common;

use common::{kernel, load, settings};
use cudaemu::diagnostics::capture;
use cudaemu::driver::error::Status;
use cudaemu::driver::{context, memory, module};
use cudaemu::settings::{newest_ptx, Settings};
use std::ffi::CStr;
use std::ptr;
use std::sync::{Mutex, PoisonError};

fn attribute(which: i32, compute_capability: i32) -> i32 {
    let mut value = -1;
    let settings = Settings { compute_capability, ..settings(1) };
    assert_eq!(settings.scope(|| unsafe { context::cuDeviceGetAttribute(&mut value, which, 0) }), Status::SUCCESS);
    value
}

#[test]
fn the_name_tells_the_emulator() {
    let mut name = [0; 100];
    assert_eq!(unsafe { context::cuDeviceGetName(name.as_mut_ptr(), 100, 0) }, Status::SUCCESS);
    assert!(unsafe { CStr::from_ptr(name.as_ptr()) }.to_bytes().starts_with(b"cudaemu"));
}

#[test]
fn compute_capabilities() {
    const MAJOR: i32 = 75;
    const MINOR: i32 = 76;
    const SHARED_OPTIN: i32 = 97;
    let kib = [(70, 96), (75, 64), (80, 163), (86, 99), (89, 99), (90, 227)];
    for (compute_capability, shared) in kib {
        assert_eq!(attribute(MAJOR, compute_capability), compute_capability / 10);
        assert_eq!(attribute(MINOR, compute_capability), compute_capability % 10);
        assert_eq!(attribute(SHARED_OPTIN, compute_capability), shared << 10);
    }
    let load_for = |target: &str, compute_capability| {
        let ptx = kernel("").replace("sm_90a", target);
        let settings = Settings { compute_capability, ..settings(1) };
        capture(|| settings.scope(|| unsafe { load(&ptx) }.map(|_| ()))).0
    };
    assert_eq!(load_for("sm_70", 70), Ok(()));
    assert_eq!(load_for("sm_70", 75), Ok(()));
    assert_eq!(load_for("sm_75", 70), Err(Status::NO_BINARY_FOR_GPU));
    assert_eq!(load_for("sm_80", 75), Err(Status::NO_BINARY_FOR_GPU));
}

#[test]
fn driver_versions() {
    for (version, newest) in [(11080, 7.8), (12000, 8.0), (12040, 8.4), (12060, 8.5), (12080, 8.7), (13000, 9.0)] {
        assert_eq!(newest_ptx(version), newest, "{version}");
    }
    let mut version = 0;
    let older = || Settings { driver_version: 12040, max_ptx: newest_ptx(12040), ..settings(1) };
    assert_eq!(older().scope(|| unsafe { context::cuDriverGetVersion(&mut version) }), Status::SUCCESS);
    assert_eq!(version, 12040);
    let (loaded, message) = capture(|| older().scope(|| unsafe { load(&kernel("")) }));
    assert_eq!(loaded, Err(Status::UNSUPPORTED_PTX_VERSION));
    assert!(message.contains("PTX ISA 9.0 is newer than the emulated driver's 8.4"), "{message}");
}

#[test]
fn device_counts() {
    unsafe fn count_and_get(ordinal: i32) -> (Status, i32, Status) {
        let (mut count, mut device) = (-1, -1);
        let initialized = context::cuInit(0);
        assert_eq!(context::cuDeviceGetCount(&mut count), Status::SUCCESS);
        (initialized, count, context::cuDeviceGet(&mut device, ordinal))
    }
    let with = |devices, ordinal| Settings { devices, ..settings(1) }.scope(|| unsafe { count_and_get(ordinal) });
    assert_eq!(with(0, 0), (Status::NO_DEVICE, 0, Status::INVALID_DEVICE));
    assert_eq!(with(1, 0), (Status::SUCCESS, 1, Status::SUCCESS));
    assert_eq!(with(1, 1), (Status::SUCCESS, 1, Status::INVALID_DEVICE));
    assert_eq!(with(2, 1), (Status::SUCCESS, 2, Status::SUCCESS));
    let mut retained = ptr::null_mut();
    assert_eq!(unsafe { context::cuDevicePrimaryCtxRetain(&mut retained, 7) }, Status::INVALID_DEVICE);
}

/// Memory is that of the process: tests that take some take turns.
static MEMORY: Mutex<()> = Mutex::new(());

#[test]
fn memory_is_limited() {
    let _alone = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    const LIMIT: usize = 8 << 20;
    unsafe fn free_and_total() -> (usize, usize) {
        let (mut free, mut total) = (0, 0);
        assert_eq!(context::cuMemGetInfo_v2(&mut free, &mut total), Status::SUCCESS);
        (free, total)
    }
    let body = || unsafe {
        let (mut address, mut other) = (0, 0);
        assert_eq!(free_and_total(), (LIMIT, LIMIT));
        assert_eq!(memory::cuMemAlloc_v2(&mut address, LIMIT + 1), Status::OUT_OF_MEMORY);
        assert_eq!(memory::cuMemAlloc_v2(&mut address, usize::MAX), Status::OUT_OF_MEMORY);
        assert_eq!(memory::cuMemAllocAsync(&mut address, LIMIT + 1, ptr::null_mut()), Status::OUT_OF_MEMORY);
        assert_eq!(memory::cuMemAllocAsync(&mut address, LIMIT - 100, ptr::null_mut()), Status::SUCCESS);
        assert_eq!(free_and_total(), (100, LIMIT));
        assert_eq!(memory::cuMemAlloc_v2(&mut other, 101), Status::OUT_OF_MEMORY);
        assert_eq!(memory::cuMemAlloc_v2(&mut other, 100), Status::SUCCESS);
        assert_eq!(free_and_total(), (0, LIMIT));
        assert_eq!(memory::cuMemFree_v2(other), Status::SUCCESS);
        assert_eq!(memory::cuMemFreeAsync(address, ptr::null_mut()), Status::SUCCESS);
        assert_eq!(free_and_total(), (LIMIT, LIMIT));
    };
    Settings { memory_bytes: LIMIT, ..settings(1) }.scope(body);
}

#[test]
fn cubins_are_refused() {
    let images: [&[u8]; 2] = [b"\x7fELF\x02\x01\x01\0", b"\x50\xed\x55\xba\x01\0"];
    for image in images {
        let mut loaded = ptr::null_mut();
        let (status, message) = capture(|| unsafe { module::cuModuleLoadData(&mut loaded, image.as_ptr()) });
        assert_eq!(status, Status::NO_BINARY_FOR_GPU);
        assert!(message.contains("give the emulated device PTX"), "{message}");
    }
}

#[test]
fn memory_is_filled_two_bytes_at_a_time() {
    let _alone = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    let body = || unsafe {
        let (mut device, mut halves) = (0, [0u16; 6]);
        assert_eq!(memory::cuMemAlloc_v2(&mut device, 16), Status::SUCCESS);
        assert_eq!(memory::cuMemsetD16Async(device, 0x1234, 8, ptr::null_mut()), Status::SUCCESS);
        assert_eq!(memory::cuMemsetD16Async(device + 2, 0xbfa0, 5, ptr::null_mut()), Status::SUCCESS);
        assert_eq!(memory::cuMemsetD16Async(device + 1, 0, 1, ptr::null_mut()), Status::INVALID_VALUE);
        assert_eq!(memory::cuMemcpyDtoH_v2(halves.as_mut_ptr() as u64, device + 2, 12), Status::SUCCESS);
        assert_eq!(halves, [0xbfa0, 0xbfa0, 0xbfa0, 0xbfa0, 0xbfa0, 0x1234]);
        assert_eq!(memory::cuMemFree_v2(device), Status::SUCCESS);
    };
    settings(1).scope(body);
}

//! `CUDAEMU_DEFER`: work is done when it must be, in an order that shows what a program forgot.

mod common;

use common::{kernel, load, settings};
use cudaemu::diagnostics::capture;
use cudaemu::driver::error::Status;
use cudaemu::driver::{context, event, graph, launch, memory, stream};
use cudaemu::settings::Settings;
use std::ffi::c_void;
use std::ptr;
use std::sync::Mutex;

type Handle = *mut c_void;

const WORDS: usize = 32;
const BYTES: usize = 4 * WORDS;
const BLOCKING: u32 = 0;
const NON_BLOCKING: u32 = 1;
const LEGACY: Handle = ptr::null_mut();
const NAN: u32 = u32::MAX;

/// Run `body` with work deferred in this order.  One test at a time: the queues are the process's.
fn deferring(defer: u32, body: impl FnOnce()) {
    static LOCK: Mutex<()> = Mutex::new(());
    let _alone = LOCK.lock().unwrap_or_else(|e| e.into_inner());
    Settings { defer, ..settings(1) }.scope(body);
}

#[track_caller]
fn ok(status: Status) {
    assert_eq!(status, Status::SUCCESS);
}

fn new_stream(flags: u32) -> Handle {
    let mut handle = ptr::null_mut();
    ok(unsafe { stream::cuStreamCreate(&mut handle, flags) });
    handle
}

fn new_event() -> Handle {
    let mut handle = ptr::null_mut();
    ok(unsafe { event::cuEventCreate(&mut handle, 0) });
    handle
}

/// Fresh device memory, which is NaN.
fn allocate() -> u64 {
    let mut device = 0;
    ok(unsafe { memory::cuMemAlloc_v2(&mut device, BYTES) });
    device
}

fn fill(device: u64, value: u32, stream: Handle) {
    ok(unsafe { memory::cuMemsetD32Async(device, value, WORDS, stream) });
}

fn copy(to: u64, from: u64, stream: Handle) {
    ok(unsafe { memory::cuMemcpyDtoDAsync_v2(to, from, BYTES, stream) });
}

/// What is in device memory when `stream` has done its work.
fn read(device: u64, stream: Handle) -> u32 {
    let mut words = [0u32; WORDS];
    ok(unsafe { memory::cuMemcpyDtoHAsync_v2(words.as_mut_ptr() as u64, device, BYTES, stream) });
    assert!(words.iter().all(|&w| w == words[0]), "{words:?}");
    words[0]
}

/// What is in device memory now.
fn peek(device: u64) -> u32 {
    unsafe { *(device as *const u32) }
}

#[test]
fn a_missing_event_wait_is_seen() {
    deferring(1, || unsafe {
        for waits in [false, true] {
            let (producer, consumer) = (new_stream(NON_BLOCKING), new_stream(NON_BLOCKING));
            let (p, q, done) = (allocate(), allocate(), new_event());
            fill(p, 7, producer);
            ok(event::cuEventRecord(done, producer));
            fill(p, 8, producer);
            if waits {
                ok(stream::cuStreamWaitEvent(consumer, done, 0));
            }
            copy(q, p, consumer);
            assert_eq!(peek(p), NAN);
            // no more than what was before the event
            assert_eq!(read(q, consumer), if waits { 7 } else { NAN });
            ok(stream::cuCtxSynchronize());
            assert_eq!(peek(p), 8);
        }
    });
}

#[test]
fn the_order_of_streams_is_not_that_of_submission() {
    for (defer, last) in [(1, 5), (2, 6)] {
        deferring(defer, || unsafe {
            let (older, newer) = (new_stream(NON_BLOCKING), new_stream(NON_BLOCKING));
            let p = allocate();
            fill(p, 5, older);
            fill(p, 6, newer);
            ok(stream::cuCtxSynchronize());
            assert_eq!(peek(p), last);
        });
    }
}

#[test]
fn faults_surface_at_the_synchronization() {
    deferring(1, || unsafe {
        let function = load(&kernel("st.global.u32 [%q], 7;")).unwrap();
        let (p, outside, worker) = (allocate(), 64u64, new_stream(NON_BLOCKING));
        let arguments = [(&raw const p).cast::<u8>(), (&raw const outside).cast()];
        let launched =
            launch::cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, worker, arguments.as_ptr(), ptr::null_mut());
        ok(launched);
        let (status, message) = capture(|| stream::cuStreamSynchronize(worker));
        assert_eq!(status, Status::ILLEGAL_ADDRESS);
        assert!(message.contains("out-of-bounds or invalid global write"), "{message}");
        ok(stream::cuStreamSynchronize(worker));
    });
}

#[test]
fn events_happen_when_their_stream_gets_there() {
    deferring(1, || unsafe {
        let (worker, p, start, end) = (new_stream(NON_BLOCKING), allocate(), new_event(), new_event());
        let mut milliseconds = -1.0;
        assert_eq!(event::cuEventElapsedTime(&mut milliseconds, start, end), Status::INVALID_HANDLE);
        ok(event::cuEventRecord(start, worker));
        fill(p, 3, worker);
        ok(event::cuEventRecord(end, worker));
        fill(p, 4, worker);
        assert_eq!(event::cuEventElapsedTime(&mut milliseconds, start, end), Status::NOT_READY);
        ok(event::cuEventSynchronize(start));
        assert_eq!(peek(p), NAN);
        ok(event::cuEventQuery(end));
        assert_eq!(peek(p), 3);
        ok(event::cuEventElapsedTime(&mut milliseconds, start, end));
        assert!(milliseconds >= 0.0);
        assert_eq!(read(p, worker), 4);
    });
}

#[test]
fn host_memory_is_read_when_the_copy_is_done() {
    deferring(1, || unsafe {
        let (worker, p) = (new_stream(NON_BLOCKING), allocate());
        let mut words = [1u32; WORDS];
        ok(memory::cuMemcpyHtoDAsync_v2(p, words.as_ptr() as u64, BYTES, worker));
        words.fill(2);
        assert_eq!(read(p, worker), 2);
        let mut pinned = ptr::null_mut();
        ok(memory::cuMemHostAlloc(&mut pinned, BYTES, 0));
        let pinned_words = std::slice::from_raw_parts_mut(pinned.cast::<u32>(), WORDS);
        pinned_words.fill(3);
        ok(memory::cuMemcpyHtoDAsync_v2(p, pinned as u64, BYTES, worker));
        pinned_words.fill(4);
        assert_eq!(read(p, worker), 4);
        fill(p, 5, worker);
        ok(memory::cuMemcpyDtoHAsync_v2(pinned as u64, p, BYTES, worker));
        assert_eq!(pinned_words[0], 4);
        ok(stream::cuStreamSynchronize(worker));
        assert_eq!(pinned_words[0], 5);
        ok(memory::cuMemFreeHost(pinned));
    });
}

#[test]
fn pageable_memory_that_was_freed_gives_nan() {
    deferring(1, || unsafe {
        const LARGE: usize = 64 << 20; // given back to the system when it is freed
        let (worker, mut p) = (new_stream(NON_BLOCKING), 0);
        ok(memory::cuMemAlloc_v2(&mut p, LARGE));
        let words = vec![1u32; LARGE / 4];
        ok(memory::cuMemcpyHtoDAsync_v2(p, words.as_ptr() as u64, LARGE, worker));
        drop(words);
        let (status, message) = capture(|| stream::cuStreamSynchronize(worker));
        assert_eq!((status, peek(p)), (Status::SUCCESS, NAN));
        assert!(message.contains("host memory that was freed"), "{message}");
        ok(memory::cuMemFree_v2(p));
    });
}

#[test]
fn the_legacy_stream_waits_for_blocking_streams_only() {
    deferring(1, || unsafe {
        for (flags, expected) in [(BLOCKING, 7), (NON_BLOCKING, NAN)] {
            let (worker, p, q) = (new_stream(flags), allocate(), allocate());
            fill(p, 7, worker);
            copy(q, p, LEGACY);
            assert_eq!(peek(q), expected);
            fill(p, 7, worker);
            let mut words = [0u32; WORDS];
            ok(memory::cuMemcpyDtoH_v2(words.as_mut_ptr() as u64, p, BYTES));
            assert_eq!(words[0], expected);
            ok(stream::cuStreamDestroy_v2(worker));
            ok(memory::cuMemFree_v2(q));
            assert_eq!(peek(p), 7);
        }
    });
}

#[test]
fn frees_and_graphs_are_in_order() {
    deferring(1, || unsafe {
        let (worker, p) = (new_stream(NON_BLOCKING), allocate());
        ok(graph::cuStreamBeginCapture_v2(worker, 2));
        fill(p, 9, worker);
        let (mut captured, mut exec) = (ptr::null_mut(), ptr::null_mut());
        ok(graph::cuStreamEndCapture(worker, &mut captured));
        ok(graph::cuGraphInstantiateWithFlags(&mut exec, captured, 0));
        ok(graph::cuGraphLaunch(exec, worker));
        ok(graph::cuGraphExecDestroy(exec));
        ok(graph::cuGraphDestroy(captured));
        let mut q = 0;
        ok(memory::cuMemAllocAsync(&mut q, BYTES, worker));
        copy(q, p, worker);
        let r = allocate();
        copy(r, q, worker);
        ok(memory::cuMemFreeAsync(q, worker));
        assert_eq!(peek(p), NAN);
        assert_eq!(read(r, worker), 9);
        assert_eq!(memory::cuMemFree_v2(q), Status::INVALID_VALUE);
    });
}

#[test]
fn memory_that_deferred_work_frees_is_found() {
    deferring(1, || unsafe {
        const MOST: usize = 33 << 20;
        let (mut p, mut q, worker) = (0, 0, new_stream(NON_BLOCKING));
        Settings { memory_bytes: 64 << 20, ..Settings::current() }.scope(|| {
            ok(memory::cuMemAllocAsync(&mut p, MOST, worker));
            ok(memory::cuMemFreeAsync(p, worker));
            ok(memory::cuMemAllocAsync(&mut q, MOST, worker));
        });
        ok(memory::cuMemFree_v2(q));
    });
}

#[test]
fn a_launch_into_a_stream_of_another_context_is_refused() {
    deferring(0, || unsafe {
        let context = |device| {
            let mut context = ptr::null_mut();
            ok(context::cuDevicePrimaryCtxRetain(&mut context, device));
            ok(context::cuCtxSetCurrent(context));
        };
        Settings { devices: 2, ..Settings::current() }.scope(|| {
            let function = load(&kernel("")).unwrap();
            context(0);
            let of_first = new_stream(NON_BLOCKING);
            context(1);
            let pointer = 0u64;
            let parameters = [ptr::from_ref(&pointer).cast::<u8>(); 2];
            let launch = |stream| {
                let (null, list) = (ptr::null_mut(), parameters.as_ptr());
                capture(|| launch::cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, list, null))
            };
            let (status, message) = launch(of_first);
            assert_eq!(status, Status::INVALID_HANDLE);
            assert!(message.contains("another context"), "{message}");
            ok(launch(new_stream(NON_BLOCKING)).0);
            ok(context::cuCtxSetCurrent(ptr::null_mut()));
        });
    });
}

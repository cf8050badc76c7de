//! Time as the device counts it.

use std::sync::OnceLock;

use cudarc::driver::{result, sys};

use super::Gpu;

/// A mark in the stream that remembers when the device came by.
struct Event<'a>(&'a Gpu, sys::CUevent);

impl<'a> Event<'a> {
    fn record(gpu: &'a Gpu) -> Event<'a> {
        gpu.bind();
        let event = gpu.check("cuEventCreate", result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT));
        let event = Event(gpu, event);
        // SAFETY: event and stream are alive.
        gpu.check("cuEventRecord", unsafe { result::event::record(event.1, gpu.0.stream) });
        event
    }

    fn wait(&self) {
        // SAFETY: the event was created and recorded.
        self.0.check("cuEventSynchronize", unsafe { result::event::synchronize(self.1) });
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        // SAFETY: the event is destroyed once; what the call answers changes nothing.
        let _ = unsafe { result::event::destroy(self.1) };
    }
}

type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;

/// Milliseconds between two events. `cuEventElapsedTime_v2`, which cudarc calls, came with CUDA 12.8; older drivers have
/// the first form, which does the same.
///
/// # Safety
/// Both events were recorded and have happened.
unsafe fn elapsed(start: sys::CUevent, end: sys::CUevent) -> Result<f32, result::DriverError> {
    static ELAPSED: OnceLock<Elapsed> = OnceLock::new();
    let function = ELAPSED.get_or_init(|| {
        // SAFETY: an event exists, so the driver is loaded; both functions have this signature.
        unsafe {
            let driver = sys::culib();
            let found = driver.get::<Elapsed>(b"cuEventElapsedTime_v2\0");
            let found = found.or_else(|_| driver.get::<Elapsed>(b"cuEventElapsedTime\0"));
            *found.expect("every driver of CUDA has cuEventElapsedTime")
        }
    });
    let mut milliseconds = 0.0;
    // SAFETY: as promised by the caller.
    unsafe { function(&mut milliseconds, start, end) }.result()?;
    Ok(milliseconds)
}

impl Gpu {
    /// Seconds the device spends on what `f` asks of it. Waits for the end of it.
    ///
    /// Work that was asked for before does not count, and while the device is busy with that the host runs ahead: then
    /// what is measured has no gaps in which the device waits for the host.
    pub fn time(&self, f: impl FnOnce()) -> f64 {
        let start = Event::record(self);
        f();
        let end = Event::record(self);
        end.wait();
        // SAFETY: both were recorded in one stream, and the later has passed.
        let milliseconds = unsafe { elapsed(start.1, end.1) };
        f64::from(self.check("cuEventElapsedTime", milliseconds)) / 1e3
    }
}

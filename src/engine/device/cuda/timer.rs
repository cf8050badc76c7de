//! Time as the device counts it.

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
        let milliseconds = unsafe { result::event::elapsed(start.1, end.1) };
        f64::from(self.check("cuEventElapsedTime", milliseconds)) / 1e3
    }
}

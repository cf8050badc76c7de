//! CUDA as this machine has it. The driver is loaded at run time; every call first asks whether it is there.

use std::ffi::c_int;
use std::fmt;

use cudarc::driver::{result, sys};
use cudarc::nvrtc;

/// What a question about CUDA found.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// The CUDA version that the driver supports; none without a driver.
    pub driver: Option<Version>,
    /// The run-time compiler's version; none without it.
    pub nvrtc: Option<Version>,
    /// Name and bytes of memory of each device.
    pub devices: Vec<(String, usize)>,
    /// What the driver said where it is there and does not work.
    pub trouble: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub major: i32,
    pub minor: i32,
}

/// Looks for driver, compiler and devices; never fails.
pub fn probe() -> Probe {
    let mut probe =
        Probe { driver: driver_version(), nvrtc: nvrtc_version(), devices: Vec::new(), trouble: None };
    if probe.driver.is_some() {
        match devices() {
            Ok(devices) => probe.devices = devices,
            Err(error) => probe.trouble = Some(error.to_string()),
        }
    }
    probe
}

fn driver_version() -> Option<Version> {
    let mut version: c_int = 0;
    // SAFETY: the library is asked for first, and the call writes one number.
    let found = unsafe { sys::is_culib_present() && sys::cuDriverGetVersion(&mut version).result().is_ok() };
    found.then_some(Version { major: version / 1000, minor: version % 1000 / 10 })
}

fn nvrtc_version() -> Option<Version> {
    let (mut major, mut minor): (c_int, c_int) = (0, 0);
    // SAFETY: the library is asked for first, and the call writes two numbers.
    let found = unsafe {
        nvrtc::sys::is_culib_present() && nvrtc::sys::nvrtcVersion(&mut major, &mut minor).result().is_ok()
    };
    found.then_some(Version { major, minor })
}

fn devices() -> Result<Vec<(String, usize)>, result::DriverError> {
    result::init()?;
    let describe = |ordinal| {
        let device = result::device::get(ordinal)?;
        // SAFETY: the device was just given by the driver.
        let bytes = unsafe { result::device::total_mem(device)? };
        Ok((result::device::get_name(device)?, bytes))
    };
    (0..result::device::get_count()?).map(describe).collect()
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(driver) = self.driver else { return write!(f, "no driver") };
        write!(f, "driver for CUDA {driver}")?;
        match self.nvrtc {
            Some(version) => write!(f, ", NVRTC {version}")?,
            None => write!(f, ", no NVRTC")?,
        }
        if let Some(trouble) = &self.trouble {
            write!(f, ", which does not work: {trouble}")?;
        }
        for (i, (name, bytes)) in self.devices.iter().enumerate() {
            write!(f, "; cuda:{i} {name}, {:.1} GiB", *bytes as f64 / (1u64 << 30) as f64)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_never_panics_and_says_something() {
        assert!(!probe().to_string().is_empty());
    }
}

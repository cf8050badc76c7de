//! The environment switches.  One test, alone in its process: the environment is the process's.

use cudaemu::settings::Settings;

#[test]
fn the_environment_sets_them() {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CUDAEMU_")) {
        // SAFETY: the only thread that looks at the environment
        unsafe { std::env::remove_var(name) };
    }
    let default = Settings::from_environment();
    assert_eq!((default.check, default.compute_capability, default.devices), (0, 90, 1));
    assert_eq!((default.driver_version, default.max_ptx, default.memory_bytes), (13000, 9.0, 4096 << 20));
    assert!(!default.profile && !default.sticky_errors);
    let switches = [
        ("CUDAEMU_CHECK", "3"),
        ("CUDAEMU_CC", "75"),
        ("CUDAEMU_DEVICES", "0"),
        ("CUDAEMU_DRIVER", "12080"),
        ("CUDAEMU_MEM_MB", "7"),
        ("CUDAEMU_STICKY", "1"),
        ("CUDAEMU_DEFER", "2"),
    ];
    for (name, value) in switches {
        // SAFETY: as above
        unsafe { std::env::set_var(name, value) };
    }
    let set = Settings::from_environment();
    assert_eq!((set.check, set.compute_capability, set.devices), (3, 75, 0));
    assert_eq!((set.driver_version, set.max_ptx, set.memory_bytes), (12080, 8.7, 7 << 20));
    assert!(set.sticky_errors);
    assert_eq!((default.defer, set.defer), (0, 2));
    // SAFETY: as above
    unsafe {
        std::env::set_var("CUDAEMU_STICKY", "0");
        std::env::set_var("CUDAEMU_PROF_FILE", "profile.jsonl");
    }
    let set = Settings::from_environment();
    assert!(!set.sticky_errors);
    assert_eq!((set.profile, set.check, set.threads), (true, 2, 1));
    assert_eq!(set.profile_file, Some("profile.jsonl".into()));
}

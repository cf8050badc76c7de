//! What build.rs reads from kernel files and writes as Rust.

#[allow(dead_code)]
#[path = "../build.rs"]
mod build_script;

/// The Rust text for one kernel file `probe.cu`.
fn launchers(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("probe.cu"), text).unwrap();
    build_script::launchers(folder.path())
}

fn refused(text: &str) -> String {
    let text = text.to_string();
    let panic = std::panic::catch_unwind(move || launchers(&text)).expect_err("an error of the build");
    *panic.downcast::<String>().unwrap()
}

#[test]
fn pointers_become_views_and_optional_ones_options() {
    let rust = launchers(
        "extern \"C\" __global__ void __launch_bounds__(256)\n\
         probe_fwd(real* __restrict__ y, const real* x, OPTIONAL const float* bias, const int* rows, int n) {}",
    );
    assert!(
        rust.contains(
            "pub fn probe_fwd(g: &Gpu, grid: Grid, y: Out, x: In, bias: Option<In>, rows: Ints, n: i32)"
        ),
        "{rust}"
    );
    assert!(rust.contains("let mut bias = bias.map_or(0, |view| view.address());"), "{rust}");
    assert!(!rust.contains("address() != 0"), "a plain pointer is never null:\n{rust}");
    assert!(rust.contains("Kernel { family: \"probe\", name: c\"probe_fwd\" }"), "{rust}");
    assert!(!rust.contains("TensorMap") && !rust.contains("Instance"), "{rust}");
}

#[test]
fn only_a_pointer_is_optional() {
    let said = refused("extern \"C\" __global__ void probe(OPTIONAL int n) {}");
    assert_eq!(said, "probe.cu: probe: only a pointer can be OPTIONAL");
}

#[test]
fn structs_by_value_get_a_twin() {
    let rust = launchers(
        "struct Dims { int n, m; unsigned divisor[3]; float scale; };\nstruct Unused { int n; };\n\
         extern \"C\" __global__ void probe(float* y, Dims d) {}",
    );
    let twin = "pub struct Dims {\n    pub n: i32,\n    pub m: i32,\n    pub divisor: [u32; 3],\n    pub scale: f32,\n}";
    assert!(rust.contains(twin) && rust.contains("#[repr(C)]"), "{rust}");
    assert!(!rust.contains("Unused"), "{rust}");
}

#[test]
fn tensor_maps_are_passed_by_value() {
    let rust =
        launchers("extern \"C\" __global__ void probe(float* y, const __grid_constant__ CUtensorMap map) {}");
    assert!(rust.contains("#[repr(C, align(64))]"), "{rust}");
    assert!(rust.contains("pub struct TensorMap(pub [u64; 16]);"), "{rust}");
    assert!(rust.contains("pub fn probe(g: &Gpu, grid: Grid, y: Out, map: TensorMap)"), "{rust}");
    let said = refused("extern \"C\" __global__ void probe(const CUtensorMap* map) {}");
    assert!(said.contains("no Rust type for the parameter map of type CUtensorMap"), "{said}");
}

#[test]
fn one_line_makes_the_kernels_of_all_tiles() {
    let rust = launchers(
        "#define INSTANCE(name, tile) \\\n    extern \"C\" __global__ void name##tile(int n) {}\n\
         INSTANCES(probe, (OPTIONAL real* y, const real* x,\n          int n), (y, x, n), 128x64, 64x64)",
    );
    for kernel in ["probe_128x64", "probe_128x64_tf32", "probe_64x64", "probe_64x64_tf32"] {
        let launcher = format!("pub fn {kernel}(g: &Gpu, grid: Grid, y: Option<Out>, x: In, n: i32)");
        assert!(rust.contains(&launcher), "{launcher}:\n{rust}");
        assert!(rust.contains(&format!("name: c\"{kernel}\"")), "{rust}");
    }
    assert!(
        rust.contains("pub static PROBE: &[Instance<fn(&Gpu, Grid, Option<Out>, In, i32)>] = &["),
        "{rust}"
    );
    let row = "Instance { tile: \"64x64\", native: probe_64x64, tf32: probe_64x64_tf32 }";
    assert!(rust.contains(row), "{rust}");
}

#[test]
fn an_instance_passes_on_what_it_takes() {
    let said = refused("INSTANCES(probe, (const real* x, int n), (n, x), 64x64)");
    assert!(said.contains("probe.cu: probe passes on other arguments than it takes"), "{said}");
    let said = refused("INSTANCES(probe, const real* x, 64x64)");
    assert!(said.contains("INSTANCES is (name, (parameters), (arguments), tiles..)"), "{said}");
    let said = refused("INSTANCES(probe, (OPTIONAL int n), (n), 64x64)");
    assert_eq!(said, "probe.cu: probe: only a pointer can be OPTIONAL");
}

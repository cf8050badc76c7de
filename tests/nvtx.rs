//! Ranges as a profiler sees them: a library in its place writes down what is pushed and popped.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mirrorgan_engine::engine::tensor::range;

/// What a tool does, by nvtxTypes.h: it takes the table of the core functions and fills slots 9 and 11.
const TOOL: &str = r#"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
typedef void (*Function)(void);
typedef struct { size_t struct_size; int (*table)(int module, Function ***out, unsigned *size); } Callbacks;
typedef struct { size_t struct_size; uint32_t version, reserved; void (*set)(uint32_t); } Version;
static FILE *out;
static int depth;
static int push(const char *name) { fprintf(out, "%d %s\n", depth, name); fflush(out); return depth++; }
static int pop(void) { fprintf(out, "%d pop\n", --depth); fflush(out); return depth; }
int InitializeInjectionNvtx2(const void *(*get)(uint32_t)) {
    const Callbacks *callbacks = get(1);
    const Version *version = get(3);
    Function **table = 0;
    unsigned size = 0;
    if (!callbacks || callbacks->struct_size < sizeof(Callbacks) || !version || version->version != 3) return 0;
    version->set(3);
    if (!callbacks->table(1, &table, &size) || size != 16 || table[0] || table[16]) return 0;
    if (!(out = fopen(getenv("RECORD"), "w"))) return 0;
    *table[9] = (Function)push;
    *table[11] = (Function)pop;
    return 1;
}
"#;

fn tool(folder: &Path, source: &str) -> PathBuf {
    let (text, library) = (folder.join("tool.c"), folder.join("libtool.so"));
    std::fs::write(&text, source).unwrap();
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&text).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    library
}

/// This test program once more, as a program under a profiler.
fn child(library: &Path, record: &Path) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "program", "--nocapture"]);
    command.env("NVTX_INJECTION64_PATH", library).env("RECORD", record).output().unwrap()
}

/// What the child does; without a profiler it shows that ranges need none.
#[test]
fn program() {
    range("step", || {
        range("forward", || ());
        let _ = std::panic::catch_unwind(|| range("fails", || std::panic::resume_unwind(Box::new(()))));
        range(format!("back{}", "ward"), || range("conv2d", || ()));
    });
}

#[test]
fn a_profiler_sees_the_ranges_nested() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let output = child(&tool(folder.path(), TOOL), &record);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = "0 step\n1 forward\n1 pop\n1 fails\n1 pop\n1 backward\n2 conv2d\n2 pop\n1 pop\n0 pop\n";
    assert_eq!(std::fs::read_to_string(record).unwrap(), expected);
}

#[test]
fn a_tool_that_does_not_work_is_said_once_and_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let refuses = tool(folder.path(), "int InitializeInjectionNvtx2(void *get) { return get == 0; }");
    for (library, why) in [
        (refuses, "the library refused to begin"),
        (folder.path().join("nothing.so"), "the library cannot be loaded"),
    ] {
        let output = child(&library, &record);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert_eq!(said.matches(why).count(), 1, "{said}");
    }
    let wants_nothing = tool(folder.path(), "int InitializeInjectionNvtx2(void *get) { return get != 0; }");
    assert!(child(&wants_nothing, &record).status.success());
}

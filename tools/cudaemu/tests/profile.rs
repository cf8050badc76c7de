//! `CUDAEMU_PROF` and `CUDAEMU_PROF_FILE`.

mod common;

use common::{kernel, Argument, Run};

/// A coalesced load, a store that strides by 128 bytes, and shared accesses of one and of 32 ways.
fn profiled() -> Run {
    let body = "
        .shared .align 4 .b8 s[4096];
        .loc 1 10 1
        ld.global.u32 %r0, [%y];
        .loc 1 11 1
        mov.u32 %r1, s;
        mad.lo.u32 %r2, %t, 4, %r1;
        st.shared.u32 [%r2], %r0;
        bar.sync 0;
        .loc 1 12 1
        mad.lo.u32 %r3, %t, 128, %r1;
        st.shared.u32 [%r3], %r0;
        .loc 1 13 1
        mul.wide.u32 %l0, %t, 128;
        add.u64 %l0, %l0, %p;
        st.global.u32 [%l0], %r0;
        red.global.add.u32 [%p], 1;";
    let mut run = Run::new(kernel(body) + "\n.file 1 \"some/file.cu\"\n").threads(32).grid(2).check(2);
    run.settings.profile = true;
    run
}

fn launch(run: &Run) -> common::Outcome {
    let (mut p, mut q) = (vec![0; 1024], vec![0; 32]);
    run.launch(&mut [Argument::Buffer(&mut p), Argument::Buffer(&mut q)])
}

#[test]
fn in_words() {
    let outcome = launch(&profiled());
    outcome.succeeded();
    let messages = outcome.messages;
    for expected in [
        "profile of k grid [2, 1, 1] block [32, 1, 1]",
        " 4.00 sectors/request (ideal  4.00)",
        "32.00 sectors/request (ideal  4.00)",
        " 1.00-way bank conflict",
        "32.00-way bank conflict",
    ] {
        assert!(messages.contains(expected), "{expected}: {messages}");
    }
}

#[test]
fn in_a_file() {
    let file = std::env::temp_dir().join(format!("cudaemu-profile-{}.jsonl", std::process::id()));
    let mut run = profiled();
    run.settings.profile_file = Some(file.clone());
    let outcome = launch(&run);
    outcome.succeeded();
    assert_eq!(outcome.messages, "");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let head = r#"{"kernel":"k","grid":[2, 1, 1],"block":[32, 1, 1],"file":"some/file.cu","line":"#;
    let expected = [
        r#"10,"space":"global","kind":"load","requests":2,"bytes_per_request":128.00,"sectors":8,"ideal_sectors":8}"#,
        r#"11,"space":"shared","kind":"store","requests":2,"bytes_per_request":128.00,"passes":2,"ideal_passes":2,"conflicts":0}"#,
        r#"12,"space":"shared","kind":"store","requests":2,"bytes_per_request":128.00,"passes":64,"ideal_passes":2,"conflicts":62}"#,
        r#"13,"space":"global","kind":"store","requests":2,"bytes_per_request":128.00,"sectors":64,"ideal_sectors":8}"#,
        r#"13,"space":"global","kind":"atomic","requests":2,"bytes_per_request":128.00,"sectors":2,"ideal_sectors":2}"#,
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected.map(|line| format!("{head}{line}")));
}

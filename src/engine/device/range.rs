//! Named stretches of work: who asks for memory, and what a profiler shows.

use std::borrow::Cow;
use std::cell::RefCell;

use super::nvtx;

thread_local! {
    static OPEN: RefCell<Vec<Cow<'static, str>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` under a name; Nsight shows it as a range around what `f` launches.
pub fn range<R>(name: impl Into<Cow<'static, str>>, f: impl FnOnce() -> R) -> R {
    let _open = enter(name);
    f()
}

/// A range that is open as long as this lives.
#[must_use = "a range closes when its guard is dropped"]
pub struct Open(());

impl Drop for Open {
    fn drop(&mut self) {
        OPEN.with_borrow_mut(|open| open.pop());
        nvtx::pop();
    }
}

/// [`range`] for functions that panic at their caller's line, which a closure would hide.
pub fn enter(name: impl Into<Cow<'static, str>>) -> Open {
    let name = name.into();
    nvtx::push(&name);
    OPEN.with_borrow_mut(|open| open.push(name));
    Open(())
}

/// The names that are open on this thread, outermost first.
pub fn path() -> String {
    OPEN.with_borrow(|open| open.join(" > "))
}

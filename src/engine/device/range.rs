//! Named stretches of work: who asks for memory, and what a profiler shows.

use std::borrow::Cow;
use std::cell::RefCell;

use super::nvtx;

thread_local! {
    static OPEN: RefCell<Vec<Cow<'static, str>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` under a name; Nsight shows it as a range around what `f` launches.
pub fn range<R>(name: impl Into<Cow<'static, str>>, f: impl FnOnce() -> R) -> R {
    struct Close;
    impl Drop for Close {
        fn drop(&mut self) {
            OPEN.with_borrow_mut(|open| open.pop());
            nvtx::pop();
        }
    }
    let name = name.into();
    nvtx::push(&name);
    OPEN.with_borrow_mut(|open| open.push(name));
    let _close = Close;
    f()
}

/// The names that are open on this thread, outermost first.
pub fn path() -> String {
    OPEN.with_borrow(|open| open.join(" > "))
}

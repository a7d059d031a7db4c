//! The fake driver, and random numbers.
#![allow(
    unsafe_code,
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout
)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cuda::{Driver, Gpu};
// Not called: the dependency makes cargo build the library.
use fakecuda as _;
use libloading::Library;

/// Lock on the fake driver, which has one state in a process.
static FAKE: Mutex<()> = Mutex::new(());

/// The fake driver in its initial state, for one test at a time.
pub struct Fake {
    library: Library,
    path: String,
    _alone: MutexGuard<'static, ()>,
}

impl Fake {
    pub fn new() -> Self {
        let alone = FAKE.lock().unwrap_or_else(PoisonError::into_inner);
        let tests = std::env::current_exe().unwrap();
        let path: PathBuf = tests.with_file_name("libfakecuda.so");
        // SAFETY: a library of ours, which does nothing when it is loaded.
        let library = unsafe { Library::new(&path) }.unwrap();
        let fake = Self {
            library,
            path: path.into_os_string().into_string().unwrap(),
            _alone: alone,
        };
        fake.reset();
        fake
    }

    fn function<T: Copy>(&self, name: &str) -> T {
        // SAFETY: the callers below name the types that fakecuda has.
        *unsafe { self.library.get::<T>(name.as_bytes()) }.unwrap()
    }

    pub fn reset(&self) {
        self.function::<extern "C" fn()>("fakecuda_reset")();
    }

    /// Clears the fake driver's list of objects that were not freed.
    pub fn forget_unfreed(&self) {
        self.function::<extern "C" fn()>("fakecuda_forget")();
    }

    pub fn set(&self, name: &str, value: &str) {
        let set =
            self.function::<extern "C" fn(*const c_char, *const c_char) -> c_int>("fakecuda_set");
        let (name, value) = (CString::new(name).unwrap(), CString::new(value).unwrap());
        assert_eq!(set(name.as_ptr(), value.as_ptr()), 0, "{name:?} {value:?}");
    }

    pub fn call_count(&self) -> u64 {
        self.function::<extern "C" fn() -> u64>("fakecuda_calls")()
    }

    /// Flags of the last call of `cuMemGetHandleForAddressRange`.
    pub fn flags(&self) -> u64 {
        self.function::<extern "C" fn() -> u64>("fakecuda_flags")()
    }

    /// Name of the driver's function that the fake driver made fail.
    pub fn failed_function(&self) -> Option<String> {
        let failed = self.function::<extern "C" fn() -> *const c_char>("fakecuda_failed")();
        // SAFETY: a C string that stays until the next fault or reset.
        let name = (!failed.is_null()).then(|| unsafe { CStr::from_ptr(failed) });
        Some(name?.to_string_lossy().into_owned())
    }

    /// List of the fake driver's objects that have not been freed.
    pub fn unfreed_objects(&self) -> String {
        let held = self.function::<extern "C" fn(*mut c_char, usize)>("fakecuda_held");
        let mut text = [0u8; 512];
        held(text.as_mut_ptr().cast(), text.len());
        CStr::from_bytes_until_nul(&text)
            .unwrap()
            .to_string_lossy()
            .into_owned()
    }

    pub fn driver(&self) -> Result<Driver, cuda::Error> {
        Driver::load_from(&self.path)
    }

    pub fn gpu(&self) -> Gpu {
        self.driver().unwrap().open(0).unwrap()
    }
}

/// Number of open fds of this process.
pub fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Formats an error and all its sources, as a tool prints them.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

/// Generator of random numbers (xorshift64*), different in each run; the seed is in the name that a
/// failed test prints.
#[derive(Debug)]
pub struct Chance {
    pub seed: u64,
    state: u64,
}

impl Chance {
    pub fn new() -> Self {
        let seed = match std::env::var("SEED") {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => RandomState::new().hash_one(0) | 1,
        };
        println!("SEED={seed}");
        Self { seed, state: seed }
    }

    pub fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Random number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let words = std::iter::from_fn(|| Some(self.next().to_le_bytes()));
        words.flatten().take(len).collect()
    }

    /// Random length: mostly that of a frag or less, sometimes a few bytes, seldom many.
    pub fn len(&mut self) -> u64 {
        let most = match self.below(8) {
            0..3 => 40,
            3..7 => 4096,
            _ => 40_000,
        };
        1 + self.below(most)
    }
}

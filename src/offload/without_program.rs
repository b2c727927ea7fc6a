//! What stands in where the program could not be compiled, or was not asked for.

use std::path::Path;

use super::settings::{Counters, Settings, Status, Unavailable};
use crate::turn::Offload;

/// There is none in this build.
#[derive(Debug)]
pub struct Kernel(std::convert::Infallible);

impl Kernel {
    /// Says why not.
    ///
    /// # Errors
    /// Always.
    pub fn load(_: &Settings) -> Result<Self, Unavailable> {
        let why = if cfg!(feature = "offload") {
            "this program was built without clang, which compiles what runs in the kernel; build it where clang and the \
             kernel's headers (Debian: clang, linux-libc-dev) are installed"
        } else {
            "this program was built without the feature \"offload\""
        };
        Err(Unavailable(why.to_owned()))
    }

    /// Never called: there is no value to call it on.
    pub fn mirror(&self, _: u16, _: u16) -> Box<dyn Offload> {
        match self.0 {}
    }

    /// Never called.
    pub fn status(&self) -> &Status {
        match self.0 {}
    }

    /// Never called.
    pub fn counters(&self) -> Counters {
        match self.0 {}
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn keep_nothing(&self) -> std::io::Result<()> {
        match self.0 {}
    }

    /// Does nothing.
    ///
    /// # Errors
    /// None: another build's leavings are not known here.
    pub fn forget(_: &Path) -> Result<(), Unavailable> {
        Ok(())
    }
}

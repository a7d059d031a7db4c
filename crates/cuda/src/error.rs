//! Errors of a GPU and its driver, and their remedies.

use std::fmt;

/// Error of the driver: a `CUresult`, with the driver's name and text for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverError {
    code: i32,
    name: String,
    text: String,
}

impl DriverError {
    /// Creates the error of a `CUresult`, from the driver's name and text for that code.
    pub fn new(code: i32, name: String, text: String) -> Self {
        Self { code, name, text }
    }

    /// Number of the `CUresult`.
    #[doc(alias = "CUresult")]
    pub fn code(&self) -> i32 {
        self.code
    }

    /// Whether the error ends the CUDA context, with all memory and work in it. That is so for
    /// codes after which, as the driver's documentation says, no call succeeds, and 999 (UNKNOWN),
    /// of which it says nothing. The export of a dmabuf is an exception: it returns 999 for some
    /// refusals, so its [`Error`] is not [`Error::Lost`].
    pub fn is_lost(&self) -> bool {
        matches!(
            self.code,
            4 // DEINITIALIZED
                | 214 // ECC_UNCORRECTABLE
                | 220 // NVLINK_UNCORRECTABLE
                | 226 // CONTAINED
                | 700 // ILLEGAL_ADDRESS
                | 702 // LAUNCH_TIMEOUT
                | 709 // CONTEXT_IS_DESTROYED
                | 710 // ASSERT
                | 714
                ..=719 // HARDWARE_STACK_ERROR to LAUNCH_FAILED
                | 721 // TENSOR_MEMORY_LEAK
                | 810 // MPS_CLIENT_TERMINATED
                | UNKNOWN
        )
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.name)
    }
}

impl std::error::Error for DriverError {}

/// Error of a GPU or its driver. The driver's words are the source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This program is linked statically, so it can't load libraries.
    #[error("load {library}: this program is linked statically")]
    Static {
        /// Name of the library.
        library: String,
    },
    /// The driver's library is missing or can't be loaded.
    #[error("load {library}")]
    Library {
        /// Name of the library.
        library: String,
        /// Error of the loader.
        #[source]
        source: libloading::Error,
    },
    /// The driver's library has no such function: it is older than CUDA 11.7.
    #[error("{library} has no {symbol}")]
    Symbol {
        /// Name of the library.
        library: String,
        /// Name of the function.
        symbol: &'static str,
    },
    /// No GPU has the requested number.
    #[error("no GPU {ordinal}: the driver has {count}")]
    NoDevice {
        /// Requested number, from 0.
        ordinal: u32,
        /// Number of GPUs.
        count: u32,
    },
    /// `CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED` is 0: the driver can't make dmabufs of this GPU's
    /// memory.
    #[error("GPU {ordinal} ({name}): its driver exports no dmabufs")]
    NoExport {
        /// Number of the GPU.
        ordinal: u32,
        /// Name of the GPU.
        name: String,
    },
    /// The requested length is 0.
    #[error("GPU memory of 0 bytes")]
    Empty,
    /// The length is not a multiple of the page size, which `cuMemGetHandleForAddressRange`
    /// requires.
    #[error("GPU memory of {len} bytes: not a multiple of the {page} byte page")]
    Unaligned {
        /// Requested length in bytes.
        len: u64,
        /// Page size of the host in bytes.
        page: u64,
    },
    /// A copy would go past the end of the GPU's memory.
    #[error("{len} bytes at offset {offset} lie outside GPU memory of {size} bytes")]
    OutOfBounds {
        /// Offset of the first byte to copy.
        offset: u64,
        /// Number of bytes to copy.
        len: u64,
        /// Length of the GPU's memory in bytes.
        size: u64,
    },
    /// The CUDA driver refused a call.
    #[error("{operation}")]
    Driver {
        /// Operation that failed, and its object.
        operation: String,
        /// Error of the driver.
        #[source]
        source: DriverError,
    },
    /// The CUDA driver refused to export memory for [`Mapping::Pcie`](crate::Mapping::Pcie).
    #[error("{operation}, by PCIe's way")]
    NoPcie {
        /// Operation that failed, and its object.
        operation: String,
        /// Error of the driver.
        #[source]
        source: DriverError,
    },
    /// The GPU, or this process's context on it, is lost, with all contents of its memory. From
    /// then on every call returns this error without asking the driver.
    #[error("GPU {ordinal} is lost")]
    Lost {
        /// Number of the GPU.
        ordinal: u32,
        /// First error of the driver.
        #[source]
        source: DriverError,
    },
}

pub(crate) const UNKNOWN: i32 = 999;

impl Error {
    /// Whether the GPU can't be used in this process any more.
    pub fn is_lost(&self) -> bool {
        matches!(self, Error::Lost { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_operation_and_has_the_drivers_words() {
        let words = |code| DriverError::new(code, "CUDA_ERROR_X".into(), "went wrong".into());
        assert_eq!(words(1).to_string(), "went wrong (CUDA_ERROR_X)");
        for lost in [214, 700, 716, 719, 999] {
            assert!(words(lost).is_lost(), "{lost}");
        }
        for harmless in [1, 2, 46, 100, 222, 304, 600, 713, 720, 801, 911] {
            assert!(!words(harmless).is_lost(), "{harmless}");
        }
        let error = Error::Driver {
            operation: "cuMemAlloc of 4096 bytes on GPU 0".into(),
            source: words(2),
        };
        assert_eq!(error.to_string(), "cuMemAlloc of 4096 bytes on GPU 0");
        assert!(!error.is_lost());
    }
}

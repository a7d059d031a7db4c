//! Remedies for NVIDIA GPUs.

use cuda::Error;

// `CUresult` of cuda.h.
const OUT_OF_MEMORY: i32 = 2;
const NO_DEVICE: i32 = 100;
const JIT_COMPILER_NOT_FOUND: i32 = 221;
const UNSUPPORTED_PTX: i32 = 222;
const SYSTEM_NOT_READY: i32 = 802;
const SYSTEM_DRIVER_MISMATCH: i32 = 803;
const COMPAT_NOT_SUPPORTED_ON_DEVICE: i32 = 804;
const UNKNOWN: i32 = 999;

/// Returns a one-line remedy for an error of CUDA or its driver; `None` if none is known.
pub fn of_cuda(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::Static { .. } => "take a build that is not static (no crt-static)",
        Error::Library { .. } => "install NVIDIA's driver; in a container, pass it the GPU",
        Error::Symbol { .. } => "install a driver of release 515 (CUDA 11.7) or later",
        Error::NoExport { .. } => {
            "take the driver's open kernel modules (nvidia-open), on a GPU of Turing or later"
        }
        Error::Unaligned { .. } => "take a multiple of the page size",
        Error::Driver { source, .. } => match source.code() {
            OUT_OF_MEMORY => "take less memory, or another GPU: nvidia-smi shows who has it",
            NO_DEVICE => "see whether nvidia-smi lists a GPU",
            UNSUPPORTED_PTX => "install a driver of release 515 (CUDA 11.7) or later",
            JIT_COMPILER_NOT_FOUND => {
                "install the driver's libnvidia-ptxjitcompiler; in a container, pass it \
                 (NVIDIA_DRIVER_CAPABILITIES=compute)"
            }
            SYSTEM_NOT_READY => {
                "see whether nvidia-fabricmanager runs, which GPUs behind NVSwitch (HGX) wait for"
            }
            SYSTEM_DRIVER_MISMATCH => "reboot: library and kernel module are of two releases",
            COMPAT_NOT_SUPPORTED_ON_DEVICE => {
                "take the libcuda of the installed driver: another's (cuda-compat) does not work \
                 with this GPU"
            }
            // Only of an export: elsewhere the GPU is lost.
            UNKNOWN => {
                "see the kernel log (NVRM) for why; the driver's open kernel modules (nvidia-open) \
                 export dmabufs, others and some virtual machines do not"
            }
            _ => return None,
        },
        Error::NoPcie { .. } => {
            "leave out :pcie: this machine has one way only, or its driver is older than CUDA 12.8, \
             which does not know it"
        }
        Error::Lost { .. } => "start again; the kernel log (NVRM: Xid) says what happened",
        _ => return None,
    })
}

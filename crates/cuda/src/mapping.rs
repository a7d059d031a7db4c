//! Path by which a NIC reaches a GPU's memory.

/// Path by which a NIC reaches a GPU's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Mapping {
    /// Path to the GPU's memory that the driver chooses. Most machines have only one.
    #[default]
    Default,
    /// Path over PCIe (`CU_MEM_RANGE_FLAG_DMA_BUF_MAPPING_TYPE_PCIE`, CUDA 12.8), on machines whose
    /// processor also reaches the GPU by another path (C2C, as GB200's). A NIC that is not behind
    /// the GPU's own root port can't use it: binding fails then, with 524 (`ENOTSUPP`).
    ///
    /// With this path the crate can't order the NIC's writes before a kernel that reads them:
    /// payload arrives by PCIe, its completion by the other path, and `cuFlushGPUDirectRDMAWrites`
    /// does not order such paths (`cuda.h`). It has not been measured.
    #[doc(alias = "CU_MEM_RANGE_FLAG_DMA_BUF_MAPPING_TYPE_PCIE")]
    Pcie,
}

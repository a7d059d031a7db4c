//! Tests with a failure of each call of the driver: a clear error, nothing left behind, no call to
//! a lost GPU.
#![allow(clippy::unwrap_used)]

mod common;

use std::error::Error as StdError;
use std::os::fd::AsFd;

use common::{Fake, error_chain, open_fds};
use cuda::{Allocation, Driver, Error, Mapping};
use payload::pattern::Pattern;
use payload::{Batch, Device};

const MIB: u64 = 1 << 20;

fn batch() -> Batch {
    let mut batch = Batch::default();
    batch.push(5, 5000, 0);
    batch.push(9000, 100, 5000);
    batch
}

/// Uses every function of a GPU once, and returns the number of calls before the first object is
/// freed.
fn use_every_function(fake: &Fake, allocation: Allocation) -> Result<u64, Box<dyn StdError>> {
    let driver = fake.driver()?;
    driver.version()?;
    driver.devices()?;
    let gpu = driver.open(0)?;
    let buffer = gpu.allocate_as(MIB, allocation, Mapping::Default)?;
    buffer.export()?;
    let pattern = Pattern::default();
    let mut bytes = vec![0; MIB as usize];
    pattern.fill(0, &mut bytes);
    buffer.write(0, &bytes)?;
    let mut worker = buffer.worker(MIB)?;
    let batch = batch();
    worker.set_timing(true);
    worker.gather(&batch)?;
    worker.set_timing(false);
    worker.crc32(&batch)?;
    let found = worker.validate(&batch, &pattern)?;
    assert_eq!(found.map(|mismatch| mismatch.offset), Some(0));
    worker.copy(0, MIB)?;
    worker.write(3, &[1])?;
    worker.read(3, &mut [0])?;
    // The worker's memory outlives the buffer.
    buffer.read(0, &mut bytes[..10])?;
    drop(buffer);
    worker.gather(&batch)?;
    Ok(fake.call_count())
}

#[test]
fn each_call_of_the_driver_may_fail() {
    let fake = Fake::new();
    for allocation in [Allocation::Plain, Allocation::Virtual] {
        fake.reset();
        fake.set("ORDERING", "0");
        let work = use_every_function(&fake, allocation).unwrap();
        assert_eq!(fake.unfreed_objects(), "");
        let calls = fake.call_count();
        assert!(work > 100 && calls > work + 50, "{work} of {calls}");
        // Out of memory; and two codes that end the context.
        for code in [2, 700, 214] {
            for nth in 1..=calls {
                fail_nth_call(&fake, allocation, nth, code, nth > work);
            }
        }
    }
}

/// Makes the `nth` call of the fake driver fail and checks the error. `late`: the work is done, so
/// an error of freeing is not returned to anybody.
fn fail_nth_call(fake: &Fake, allocation: Allocation, nth: u64, code: i32, late: bool) {
    fake.reset();
    fake.set("ORDERING", "0");
    fake.set("FAIL", &format!("*:{nth}:{code}"));
    let fds_before = open_fds();
    let outcome = use_every_function(fake, allocation);
    let failed = fake.failed_function().unwrap();
    let case = format!("call {nth}, {failed}, answers {code}");
    // The context is popped in any case.
    let unseen = late || failed == "cuCtxPopCurrent";
    match &outcome {
        Ok(_) => assert!(unseen, "{case}: unseen"),
        Err(error) => {
            let text = error_chain(error.as_ref());
            let (words, lost) = match code {
                2 => ("out of memory (CUDA_ERROR_OUT_OF_MEMORY)", false),
                700 => (
                    "an illegal memory access was encountered (CUDA_ERROR_ILLEGAL_ADDRESS)",
                    true,
                ),
                _ => ("(CUDA_ERROR_ECC_UNCORRECTABLE)", true),
            };
            assert!(text.ends_with(words), "{case}: {text}");
            let in_context = text.contains("GPU 0 is lost");
            assert!(text.contains(&failed) || in_context, "{case}: {text}");
            assert!(lost || !in_context, "{case}: {text}");
            assert!(lost || !unseen, "{case}: {text}");
        }
    }
    // An object whose freeing failed belongs to the driver.
    if !late || code != 2 {
        assert_eq!(fake.unfreed_objects(), "", "{case}");
    }
    fake.forget_unfreed();
    assert_eq!(open_fds(), fds_before, "{case}: fds");
}

#[test]
fn a_lost_gpu_stays_lost() {
    let fake = Fake::new();
    let gpu = fake.gpu();
    let buffer = gpu.allocate(MIB).unwrap();
    let mut worker = buffer.worker(MIB).unwrap();
    worker.gather(&batch()).unwrap();
    fake.set("FAIL", "cuStreamSynchronize:1:719");
    let first = worker.gather(&batch()).unwrap_err();
    assert!(first.is_lost());
    assert_eq!(
        error_chain(&first),
        "gather on the GPU: GPU 0 is lost: unspecified launch failure (CUDA_ERROR_LAUNCH_FAILED)"
    );
    let calls = fake.call_count();
    for error in [
        worker.gather(&batch()).unwrap_err(),
        worker.crc32(&batch()).unwrap_err(),
        worker.validate(&batch(), &Pattern::default()).unwrap_err(),
        worker.read(0, &mut [0]).unwrap_err(),
        worker.write(0, &[0]).unwrap_err(),
    ] {
        assert!(error.is_lost());
        assert!(
            error_chain(&error).ends_with("(CUDA_ERROR_LAUNCH_FAILED)"),
            "{error}"
        );
    }
    for error in [
        worker.copy(0, 1).unwrap_err(),
        buffer.read(0, &mut [0]).unwrap_err(),
        gpu.allocate(MIB).unwrap_err(),
        buffer.worker(0).unwrap_err(),
    ] {
        assert!(error.is_lost(), "{error:?}");
    }
    drop((worker, buffer));
    assert_eq!(fake.call_count(), calls, "a lost GPU was asked");
    drop(gpu);
    assert_eq!(fake.unfreed_objects(), "");
}

#[test]
fn the_mapping_by_pcie_is_requested_only_if_chosen() {
    let fake = Fake::new();
    let map = |mapping| fake.gpu().allocate_as(MIB, Allocation::Plain, mapping);
    fake.set("PCIE", "1");
    let plain = fake.gpu().allocate(MIB).unwrap();
    assert_eq!((plain.mapping(), fake.flags()), (Mapping::Default, 0));
    let buffer = map(Mapping::Pcie).unwrap();
    assert_eq!((buffer.mapping(), fake.flags()), (Mapping::Pcie, 1));
    plain.export().unwrap();
    assert_eq!(fake.flags(), 0);
    buffer.export().unwrap();
    assert_eq!(fake.flags(), 1);
    drop((plain, buffer));

    // After a refusal the other path is not tried.
    let fds_before = open_fds();
    let refused = |code| {
        let error = map(Mapping::Pcie).unwrap_err();
        assert!(matches!(error, Error::NoPcie { .. }), "{error:?}");
        assert!(error_chain(&error).contains("by PCIe's way: "), "{code}");
        assert_eq!(
            (fake.flags(), fake.unfreed_objects(), open_fds()),
            (1, String::new(), fds_before)
        );
    };
    fake.set("FAIL", "cuMemGetHandleForAddressRange:1:1");
    refused(1);
    fake.set("PCIE", "0");
    refused(801);
    fake.set("FAIL", "cuMemGetHandleForAddressRange:1:2");
    let error = map(Mapping::Pcie).unwrap_err();
    assert!(matches!(error, Error::Driver { .. }), "{error:?}");
    assert_eq!(fake.unfreed_objects(), "");
}

/// The driver returns 999 (UNKNOWN) for an export that it refuses for a reason of the machine: the
/// GPU can be used further. From any other call 999 is final.
#[test]
fn an_export_that_fails_for_no_known_reason_loses_no_gpu() {
    let fake = Fake::new();
    let gpu = fake.gpu();
    fake.set("FAIL", "cuMemGetHandleForAddressRange:1:999");
    let error = gpu.allocate(MIB).unwrap_err();
    assert!(matches!(error, Error::Driver { .. }), "{error:?}");
    assert!(
        error_chain(&error).ends_with("(CUDA_ERROR_UNKNOWN)"),
        "{error}"
    );

    let memory = gpu.allocate_memory(MIB, Allocation::Plain).unwrap();
    let mut worker = memory.worker(MIB).unwrap();
    worker.gather(&batch()).unwrap();
    memory.export(Mapping::Default).unwrap();
    fake.set("FAIL", "cuStreamSynchronize:1:999");
    assert!(worker.gather(&batch()).unwrap_err().is_lost());
    drop((memory, worker, gpu));
    assert_eq!(fake.unfreed_objects(), "");
}

#[test]
fn virtual_memory_is_reachable_for_peers_where_possible() {
    let fake = Fake::new();
    for able in [true, false] {
        fake.set("RDMA_VIRTUAL", if able { "1" } else { "0" });
        let gpu = fake.gpu();
        assert_eq!(gpu.info().rdma_virtual, able);
        // The fake driver refuses any other value of the flag.
        gpu.allocate_as(MIB, Allocation::Virtual, Mapping::Default)
            .unwrap();
    }
    assert_eq!(fake.unfreed_objects(), "");
}

#[test]
fn any_thread_may_use_a_gpu() {
    let fake = Fake::new();
    let buffer = fake.gpu().allocate(MIB).unwrap();
    let mut worker = buffer.worker(MIB).unwrap();
    for _ in 0..3 {
        worker = std::thread::spawn(move || {
            worker.gather(&batch()).unwrap();
            worker
        })
        .join()
        .unwrap();
    }
    std::thread::spawn(move || drop((worker, buffer)))
        .join()
        .unwrap();
    assert_eq!(fake.unfreed_objects(), "");
}

#[test]
fn writes_are_flushed_where_they_must_be() {
    let fake = Fake::new();
    for (ordering, calls) in [("0", true), ("100", false)] {
        fake.set("ORDERING", ordering);
        let mut worker = fake.gpu().allocate(MIB).unwrap().worker(MIB).unwrap();
        fake.set("FAIL", "cuFlushGPUDirectRDMAWrites:1:801");
        let outcome = worker.gather(&batch());
        assert_eq!(outcome.is_err(), calls, "{outcome:?}");
        fake.reset();
    }
}

#[test]
fn unavailable_memory_is_an_error() {
    let fake = Fake::new();
    let driver = fake.driver().unwrap();
    assert_eq!(driver.version().unwrap().to_string(), "12.8");
    let devices = driver.devices().unwrap();
    assert_eq!(devices.len(), 1);
    assert_eq!(
        (devices[0].compute, devices[0].pci.as_str()),
        ((7, 5), "0000:fa:00.0")
    );

    let error = driver.open(1).unwrap_err();
    assert_eq!(error.to_string(), "no GPU 1: the driver has 1");
    let gpu = driver.open(0).unwrap();
    assert!(matches!(gpu.allocate(0).unwrap_err(), Error::Empty));
    let error = gpu.allocate(4097).unwrap_err();
    assert!(
        matches!(error, Error::Unaligned { len: 4097, .. }),
        "{error}"
    );
    let error = gpu.allocate(1 << 40).unwrap_err();
    assert!(
        error_chain(&error).contains("out of memory"),
        "{}",
        error_chain(&error)
    );
    let buffer = gpu.allocate(8192).unwrap();
    assert!(dmabuf::Dmabuf::len(&buffer) == 8192 && buffer.as_fd().try_clone_to_owned().is_ok());

    // The fake driver's dmabufs are real where this machine has udmabufs.
    if std::path::Path::new("/dev/udmabuf").exists() {
        let exported = dmabuf::DmabufFd::new(buffer.export().unwrap()).unwrap();
        assert_eq!(dmabuf::Dmabuf::len(&exported), 8192);
    }

    fake.set("DMABUF", "0");
    let error = driver.open(0).unwrap().allocate(8192).unwrap_err();
    assert!(error.to_string().contains("exports no dmabufs"), "{error}");

    fake.set("DEVICES", "0");
    let error = fake.driver().unwrap_err();
    assert_eq!(
        error_chain(&error),
        "cuInit: no CUDA-capable device is detected (CUDA_ERROR_NO_DEVICE)"
    );
}

#[test]
fn a_missing_or_old_driver_is_named() {
    let error = Driver::load_from("libno-such-driver.so.1").unwrap_err();
    assert_eq!(error.to_string(), "load libno-such-driver.so.1");
    assert!(error_chain(&error).contains("cannot open shared object file"));
    // A library that exists, without any of the functions.
    let error = Driver::load_from("libm.so.6").unwrap_err();
    assert_eq!(error.to_string(), "libm.so.6 has no cuInit");
}

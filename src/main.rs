//! The binary. It calls the command line.

/// Chosen after measurement (docs/PERFORMANCE.md).
#[cfg(feature = "gateway")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    token_shield::cli::main()
}

//! The binary: words in, exit code out.

/// Chosen by measurement (docs/PERFORMANCE.md).
#[cfg(feature = "gateway")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    token_shield::cli::main()
}

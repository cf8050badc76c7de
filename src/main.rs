use std::process::ExitCode;

fn main() -> ExitCode {
    mirrorgan_engine::cli::main()
}

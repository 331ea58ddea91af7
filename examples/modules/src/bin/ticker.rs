//! A program for guests: `ticker MS COUNT` prints COUNT ticks of `ticker`, slow ones first, then
//! twice as fast ones. It is async; see `kv.rs` for the blocking SDK.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use outsock_example_modules::{ticker, way};
use outsock_vmrpc::{AsyncClient, Ticket};

fn main() -> ExitCode {
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [ms, count] = numbers[..] else {
        eprintln!("usage: ticker MS COUNT ");
        return ExitCode::from(64);
    };
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(run(ms, count)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ticker: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(ms: u32, count: u32) -> Result<(), Box<dyn std::error::Error>> {
    let client = match std::env::var("OUTSOCK_RPC_SOCKET") {
        Ok(path) => {
            let stream = std::os::unix::net::UnixStream::from(way::inherited(&path)?);
            stream.set_nonblocking(true)?;
            AsyncClient::new(tokio::net::UnixStream::from_std(stream)?).await?
        }
        Err(_) => AsyncClient::connect().await?,
    };
    let module = client.bind_module(ticker::NAME, ticker::VERSIONS).await?;
    let ticket = module.perform_rpc(ticker::START, &ms.to_le_bytes()).await?;
    let queue = module.open_ev_queue(Ticket::decode(&ticket)?).await?;
    println!("ticks through {}", queue.form());
    for tick in 0..count {
        if tick == count / 2 {
            queue.put_event_async(&(ms / 2).to_le_bytes()).await?;
        }
        let event = queue.get_event_async().await?;
        println!("tick {}", u64::from_le_bytes(event.as_slice().try_into()?));
    }
    Ok(())
}

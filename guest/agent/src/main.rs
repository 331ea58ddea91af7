//! `outsock`, the guest agent: outsources the sockets of unmodified programs.
//!
//! A program's `connect()` is held by a seccomp filter; the supervisor has the host's gateway make the
//! connection, opens an AF_VSOCK stream to it, and puts that stream where the program's socket was.
//! From then on the program reads and writes the stream itself; nothing of the agent is in between.
//!
//! | Module | What it holds |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`run`] | the three processes: front, supervisor, command |
//! | [`command`] | the supervised program, from fork to exit |
//! | [`filter`] | which system calls are trapped: one table, translated to BPF |
//! | [`notify`] | held calls and their answers |
//! | [`supervisor`] | the loop that answers every held call |
//! | [`connect`] | connect(): what it leads to |
//! | [`held`] | connects that wait, from start to answer |
//! | [`replace`] | the program's socket becomes the data connection, and back |
//! | [`listen`], [`accept`] | listen(), shutdown(), accept() |
//! | [`listeners`], [`tickets`] | who listens, and connections that came in |
//! | [`ends`] | processes whose end matters |
//! | [`kin`], [`relay`] | sockets that fork has shared before connect() |
//! | [`names`] | getsockname(), getpeername() |
//! | [`options`], [`allowed`] | getsockopt(), setsockopt() |
//! | [`outward`] | options that go to the host's socket |
//! | [`inquiry`] | held calls whose answer the gateway has |
//! | [`bind`] | bind() |
//! | [`sending`] | sendto() with an address, MSG_FASTOPEN |
//! | [`ioctl`] | FIONREAD, SIOCOUTQ, SIOCATMARK |
//! | [`descriptors`] | dup() and relatives, epoll_create() |
//! | [`resolver`] | DNS for the supervised programs |
//! | [`redirect`], [`nameservers`] | sockets on their way to a nameserver |
//! | [`table`] | outsourced sockets and their state |
//! | [`waiting`] | held calls whose answer is not known yet |
//! | [`weak`] | which outsourced sockets still exist |
//! | [`epoll`] | moves a program's epoll registrations |
//! | [`processes`], [`proc`] | whose call it is; what /proc says |
//! | [`identity`] | which program and user asks |
//! | [`route`], [`address`] | what stays in the guest; socket addresses |
//! | [`lost`] | connections whose gateway is gone |
//! | [`gateway`], [`dial`], [`mailbox`] | the link to the host |
//! | [`modules`] | the listing of host modules |
//! | [`tun`] | UDP and ping, by a TUN device |
//! | [`log`], [`limits`] | messages; every bound |
//! | [`sys`] | raw system calls, the only `unsafe` code |
#![deny(unsafe_code)]

mod accept;
mod address;
mod allowed;
mod bind;
mod cli;
mod command;
mod connect;
mod descriptors;
mod dial;
mod ends;
mod epoll;
mod filter;
mod gateway;
mod held;
mod identity;
mod inquiry;
mod ioctl;
mod kin;
mod limits;
mod listen;
mod listeners;
mod log;
mod lost;
mod mailbox;
mod modules;
mod names;
mod nameservers;
mod notify;
mod options;
mod outward;
mod proc;
mod processes;
mod redirect;
mod relay;
mod replace;
mod resolver;
mod route;
mod run;
mod sending;
mod shutdown;
mod supervisor;
mod sys;
mod table;
mod tickets;
mod tun;
mod waiting;
mod weak;

use clap::Parser;

fn main() {
    std::process::exit(real_main());
}

fn real_main() -> i32 {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody to tell if this fails.
            let _ = error.print();
            return if error.use_stderr() { run::EX_USAGE } else { 0 };
        }
    };
    log::set_verbose(cli.verbose);
    let task = match cli.task {
        cli::Task::Run(task) => task,
        cli::Task::Modules(task) => return list_modules(&task),
    };
    run::run(&task).unwrap_or_else(|error| {
        log::say(format_args!("cannot start: {error}"));
        run::EX_UNAVAILABLE
    })
}

fn list_modules(task: &cli::Modules) -> i32 {
    match modules::list(&*task.way.dialer()) {
        Ok(list) if task.json => println!("{}", modules::json(&list)),
        Ok(list) => print!("{}", modules::table(&list)),
        Err(error) => {
            log::say(format_args!("{error}"));
            return run::EX_UNAVAILABLE;
        }
    }
    0
}

//! Interface: the TUN device, its addresses, and the routes into it.
//!
//! in: which packets shall come; out: a file that has them. Owner: the relay's thread. Kept: routes
//! stand in a table of their own, so none of the guest's is touched; device, addresses and routes go
//! with the file, the rules when this value is dropped. Left behind by an agent that was killed they
//! lead to an empty table, which is as if they were not there.
//!
//! | Rule | Leads into the device |
//! |---|---|
//! | 1042 | what comes from its own address: answers to datagrams that came in by it |
//! | 1043, `always` | everything that is not the guest's own |
//! | 33000, `auto` | what the guest itself has no route for |

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use crate::{limits, sys};

/// Its name.
pub(crate) const NAME: &str = "outsock0";

/// The guest's address: of a range for what lies between a host and its own gateway (RFC 7335).
pub(crate) const GUEST_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);
/// The guest's address. Not one of the gateway's synthetic addresses.
pub(crate) const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd6f, 0x7574, 0x7370, 0, 0, 0, 0, 2);
/// Which packets shall come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Those for which the guest has no route.
    Rest,
    /// All but the guest's own.
    All,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Interface {
    pub(crate) file: File,
    /// `None` where the guest has no IPv6.
    pub(crate) v6: Option<Ipv6Addr>,
    netlink: OwnedFd,
}

const TABLE: u32 = 1042;
const RULE_FROM: u32 = 1042;
const RULE_ALL: u32 = 1043;
const RULE_REST: u32 = 33_000;

impl Interface {
    /// Makes it. `EBUSY` when another agent has it.
    pub(crate) fn new(reach: Reach) -> io::Result<Self> {
        let file = match sys::tun::open(NAME) {
            Err(error) if has_no_device(&error) => {
                load_module();
                sys::tun::open(NAME)?
            }
            outcome => outcome?,
        };
        let both = sys::tun::OFFLOAD_CHECKSUM | sys::tun::OFFLOAD_UDP;
        if sys::tun::set_offload(&file, both).is_err() {
            sys::tun::set_offload(&file, sys::tun::OFFLOAD_CHECKSUM)?;
        }
        let number = sys::tun::interface_number(NAME)?;
        // Answers come from addresses that the guest reaches by another interface. No such file: no
        // such filter.
        let filter = format!("/proc/sys/net/ipv4/conf/{NAME}/rp_filter");
        let _ = std::fs::write(filter, "2");
        let mut this = Self { file, v6: None, netlink: sys::socket::route_query()? };
        this.remove_rules();
        this.request(&up(number))?;
        this.configure(number, GUEST_V4.into(), reach)?;
        if this.configure(number, GUEST_V6.into(), reach).is_ok() {
            this.v6 = Some(GUEST_V6);
        }
        Ok(this)
    }

    fn configure(&self, number: u32, address: IpAddr, reach: Reach) -> io::Result<()> {
        self.request(&add_address(number, address))?;
        self.request(&add_default_route(number, address))?;
        self.request(&rule(RTM_NEWRULE, address, RULE_FROM, true))?;
        let priority = match reach {
            Reach::All => RULE_ALL,
            Reach::Rest => RULE_REST,
        };
        self.request(&rule(RTM_NEWRULE, address, priority, false))
    }

    fn remove_rules(&self) {
        for address in [IpAddr::from(GUEST_V4), GUEST_V6.into()] {
            for (priority, from) in [(RULE_FROM, true), (RULE_ALL, false), (RULE_REST, false)] {
                // Fails where there is none.
                let _ = self.request(&rule(RTM_DELRULE, address, priority, from));
            }
        }
    }

    /// Sends a request and takes its acknowledgement (`struct nlmsgerr`).
    fn request(&self, message: &[u8]) -> io::Result<()> {
        sys::socket::send(self.netlink.as_fd(), message)?;
        let mut answer = [0u8; 1024];
        let length = sys::socket::receive(self.netlink.as_fd(), &mut answer)?;
        let error = answer[..length].get(16..).and_then(<[u8]>::first_chunk);
        match error.map(|error| i32::from_ne_bytes(*error)) {
            Some(0) => Ok(()),
            Some(error) => Err(io::Error::from_raw_os_error(-error)),
            None => Err(io::Error::from_raw_os_error(libc::EPROTO)),
        }
    }
}

/// Distributions load the module when the device's file is opened; small systems have no such file.
fn has_no_device(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENXIO))
}

fn load_module() {
    let mut modprobe = Command::new("modprobe");
    modprobe.args(["-q", "tun"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // What came of it shows when the device is opened again.
    let _ = modprobe.status();
}

impl Drop for Interface {
    fn drop(&mut self) {
        // Before the file is closed: whoever waits for the device makes rules of its own.
        self.remove_rules();
    }
}

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const IFLA_MTU: u16 = 4;
const IFA_LOCAL: u16 = 2;
const IFA_ADDRESS: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const ACTION_TO_TABLE: u8 = 1;
const PROTOCOL_STATIC: u8 = 4;
const TYPE_UNICAST: u8 = 1;

fn message(kind: u16, body: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut message = vec![0u8; 4];
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE).to_ne_bytes());
    message.extend([0u8; 8]);
    message.extend(body);
    for (name, value) in attributes {
        // Every value is a multiple of four bytes.
        message.extend(u16::try_from(4 + value.len()).unwrap_or(0).to_ne_bytes());
        message.extend(name.to_ne_bytes());
        message.extend(*value);
    }
    let length = u32::try_from(message.len()).unwrap_or(0);
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message
}

fn family_and_octets(address: IpAddr) -> (u8, u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (2, 32, v4.octets().to_vec()),
        IpAddr::V6(v6) => (10, 128, v6.octets().to_vec()),
    }
}

/// `struct ifinfomsg`.
fn up(number: u32) -> Vec<u8> {
    let up = libc::IFF_UP.cast_unsigned().to_ne_bytes();
    let body = [&[0u8; 4][..], &number.to_ne_bytes(), &up, &up].concat();
    message(RTM_NEWLINK, &body, &[(IFLA_MTU, &limits::TUN_MTU.to_ne_bytes())])
}

/// `struct ifaddrmsg`.
fn add_address(number: u32, address: IpAddr) -> Vec<u8> {
    let (family, bits, octets) = family_and_octets(address);
    let body = [&[family, bits, 0, 0][..], &number.to_ne_bytes()].concat();
    message(RTM_NEWADDR, &body, &[(IFA_LOCAL, &octets), (IFA_ADDRESS, &octets)])
}

/// `struct rtmsg`: the default route of our table.
fn add_default_route(number: u32, address: IpAddr) -> Vec<u8> {
    let (family, _, _) = family_and_octets(address);
    let body = [family, 0, 0, 0, 0, PROTOCOL_STATIC, 0, TYPE_UNICAST, 0, 0, 0, 0];
    let attributes: [(u16, &[u8]); 2] =
        [(RTA_TABLE, &TABLE.to_ne_bytes()), (RTA_OIF, &number.to_ne_bytes())];
    message(RTM_NEWROUTE, &body, &attributes)
}

/// `struct fib_rule_hdr`.
fn rule(kind: u16, address: IpAddr, priority: u32, from: bool) -> Vec<u8> {
    let (family, bits, octets) = family_and_octets(address);
    let source_bits = if from { bits } else { 0 };
    let body = [family, 0, source_bits, 0, 0, 0, 0, ACTION_TO_TABLE, 0, 0, 0, 0];
    let (table, priority) = (TABLE.to_ne_bytes(), priority.to_ne_bytes());
    let mut attributes: Vec<(u16, &[u8])> = vec![(FRA_TABLE, &table), (FRA_PRIORITY, &priority)];
    if from {
        attributes.push((FRA_SRC, &octets));
    }
    message(kind, &body, &attributes)
}

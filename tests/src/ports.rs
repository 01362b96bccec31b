//! Ports for processes that are ended and started again while calls run.

use anyhow::{Context, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Mutex;

/// Below what Linux gives to outgoing connections and to port 0 (32768 and more): a port of ours is not taken by a
/// client of ours while its process is down.
const OURS: std::ops::Range<u16> = 20_000..32_000;

/// Tries before it is given up: one in two taken is far more than a machine has.
const TRIES: usize = 64;

/// The same number in UDP, held until this process ends, says that a port is given: nobody listens on it yet when the
/// next are picked, here or in a suite beside this one.
static GIVEN: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());

/// Loopback addresses that are given to nobody else while this process runs, and that were free a moment ago.
///
/// # Errors
/// When nearly all ports are taken.
pub fn free<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut addresses = Vec::with_capacity(N);
    for _ in 0..TRIES * N {
        if addresses.len() == N {
            break;
        }
        addresses.extend(give(SocketAddr::from((Ipv4Addr::LOCALHOST, rand::random_range(OURS)))));
    }
    addresses.try_into().ok().context("no free port was found")
}

fn give(address: SocketAddr) -> Option<SocketAddr> {
    let token = UdpSocket::bind(address).ok()?;
    TcpListener::bind(address).ok()?;
    GIVEN.lock().ok()?.push(token);
    Some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_port_is_given_twice_and_each_can_be_had() {
        let given: Vec<SocketAddr> = (0..100).flat_map(|_| free::<8>().unwrap()).collect();
        assert!(given.iter().all(|p| OURS.contains(&p.port())));
        assert_eq!(given.iter().collect::<HashSet<_>>().len(), given.len());
        TcpListener::bind(given[0]).unwrap();
    }
}

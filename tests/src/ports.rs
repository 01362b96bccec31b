//! Ports for processes that are ended and started again while calls run.

use anyhow::{Context, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Below what Linux gives to outgoing connections and to port 0 (32768 and more): a port of ours is not taken by a
/// client of ours while its process is down.
const OURS: std::ops::Range<u16> = 20_000..32_000;

/// Tries before it is given up: one in two taken is far more than a machine has.
const TRIES: usize = 64;

/// Loopback addresses that were free a moment ago, all different.
///
/// # Errors
/// When nearly all ports are taken.
pub fn free<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut held = Vec::with_capacity(N);
    for _ in 0..TRIES * N {
        if held.len() == N {
            break;
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, rand::random_range(OURS)));
        held.extend(TcpListener::bind(address));
    }
    let addresses: Vec<SocketAddr> = held.iter().map(TcpListener::local_addr).collect::<std::io::Result<_>>()?;
    addresses.try_into().ok().context("no free port was found")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_different_and_can_be_had() {
        let mut ports = free::<8>().unwrap();
        ports.sort();
        assert!(ports.windows(2).all(|w| w[0] != w[1]) && ports.iter().all(|p| OURS.contains(&p.port())));
        TcpListener::bind(ports[0]).unwrap();
    }
}

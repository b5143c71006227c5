//! Prints what SRTP costs per packet, in ns of CPU time (not of wall time). Run it optimized:
//! `cargo run --release -p mediacore-core --example srtp_cost`. Linux only: reads `/proc/self/schedstat`.
#![allow(clippy::unwrap_used)]

use mediacore_core::srtp::{SrtpProfile, keys_from_exporter};

/// Enough that a round is many scheduler ticks, which is how finely the kernel counts.
const PACKETS: u32 = 100_000;
/// Packets opened a round; all lie in memory.
const OPENED: u32 = 40_000;
const ROUNDS: usize = 7;

fn main() {
    println!(
        "{:<22}{:>8}{:>10}{:>10}{:>10}",
        "profile", "bytes", "seal", "in parts", "open"
    );
    for profile in [
        SrtpProfile::AeadAes128Gcm,
        SrtpProfile::AeadAes256Gcm,
        SrtpProfile::AesCm128HmacSha1_80,
    ] {
        for bytes in [1100, 100] {
            let material = vec![7; profile.keying_material_len()];
            let (mut sender, _) = keys_from_exporter(profile, &material, true).unwrap();
            let payload = vec![1; bytes];
            let mut out = Vec::with_capacity(2048);
            let mut index = 0_u64;
            let mut header = [
                0x80, 96, 0, 0, 0, 0, 0, 9, 0, 0, 0, 5, 0xbe, 0xde, 0, 1, 0x51, 0, 0, 0,
            ];
            let seal = median(|| {
                for _ in 0..PACKETS {
                    index += 1;
                    header[2..4].copy_from_slice(&(index as u16).to_be_bytes());
                    out.clear();
                    sender.seal_rtp(index, &header, &payload, &mut out);
                    std::hint::black_box(&out);
                }
            });
            let parts = median(|| {
                for _ in 0..PACKETS {
                    index += 1;
                    header[2..4].copy_from_slice(&(index as u16).to_be_bytes());
                    out.clear();
                    out.extend_from_slice(&header);
                    sender.seal_rtp_parts(index, 0, &[0x90, 0x80, 1], &payload[3..], &mut out);
                    std::hint::black_box(&out);
                }
            });
            let sealed: Vec<Vec<u8>> = (0..OPENED)
                .map(|index| {
                    header[2..4].copy_from_slice(&(index as u16).to_be_bytes());
                    let mut packet = Vec::new();
                    sender.seal_rtp(u64::from(index), &header, &payload, &mut packet);
                    packet
                })
                .collect();
            let mut copies = Vec::new();
            let mut opens = Vec::new();
            for _ in 0..ROUNDS {
                let (_, mut receiver) = keys_from_exporter(profile, &material, false).unwrap();
                copies.clone_from(&sealed);
                let start = cpu_ns();
                for (index, packet) in copies.iter_mut().enumerate() {
                    receiver
                        .open_rtp(packet, header.len(), 5, index as u16)
                        .unwrap();
                }
                opens.push((cpu_ns() - start) / u64::from(OPENED));
            }
            opens.sort_unstable();
            println!(
                "{:<22}{bytes:>8}{seal:>10}{parts:>10}{:>10}",
                format!("{profile:?}"),
                opens[ROUNDS / 2]
            );
        }
    }
}

fn median(mut round: impl FnMut()) -> u64 {
    let mut costs: Vec<u64> = (0..ROUNDS)
        .map(|_| {
            let start = cpu_ns();
            round();
            (cpu_ns() - start) / u64::from(PACKETS)
        })
        .collect();
    costs.sort_unstable();
    costs[ROUNDS / 2]
}

fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    stat.split_whitespace().next().unwrap().parse().unwrap()
}

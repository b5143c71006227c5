use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

const PROFILES: [SrtpProfile; 3] = [
    SrtpProfile::AeadAes128Gcm,
    SrtpProfile::AeadAes256Gcm,
    SrtpProfile::AesCm128HmacSha1_80,
];

fn pair(profile: SrtpProfile) -> (SrtpSender, SrtpReceiver) {
    let material: Vec<u8> = (0..profile.keying_material_len())
        .map(|byte| byte as u8)
        .collect();
    let (sender, _) = keys_from_exporter(profile, &material, true).unwrap();
    let (_, receiver) = keys_from_exporter(profile, &material, false).unwrap();
    (sender, receiver)
}

fn header(ssrc: u32, sequence: u16) -> Vec<u8> {
    let mut header = vec![0x80, 96];
    header.extend_from_slice(&sequence.to_be_bytes());
    header.extend_from_slice(&[0, 0, 0, 9]);
    header.extend_from_slice(&ssrc.to_be_bytes());
    header
}

fn sealed(sender: &mut SrtpSender, ssrc: u32, index: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    sender.seal_rtp(index, &header(ssrc, index as u16), payload, &mut out);
    out
}

fn open(receiver: &mut SrtpReceiver, packet: &[u8]) -> Result<(Vec<u8>, u64), SrtpError> {
    let mut packet = packet.to_vec();
    let (ssrc, seq) = (read_u32(&packet, 8).unwrap(), read_u16(&packet, 2).unwrap());
    let (length, index) = receiver.open_rtp(&mut packet, 12, ssrc, seq)?;
    Ok((packet[12..length].to_vec(), index))
}

#[test]
fn rfc_3711_appendix_b_3_key_derivation() {
    let key = hex("E1F97A0D3E018BE0D64FA32C06DE4139");
    let salt: [u8; 14] = hex("0EC675AD498AFEEBB6960B3AABE6").try_into().unwrap();
    for (label, expected) in [
        (0, "C61E7A93744F39EE10734AFE3FF7A087"),
        (2, "30CBBC08863D8C85D49DB34A9AE1"),
        (
            1,
            "CEBE321F6FF7716B6FD4AB49AF256A156D38BAA48F0A0ACF3C34E2359E6CDBCEE049646C43D9327AD175578EF7227098\
             6371C10C9A369AC2F94A8C5FBCDDDC256D6E919A48B610EF17C2041E47403576",
        ),
    ] {
        let expected = hex(expected);
        let mut out = vec![0; expected.len()];
        derive_key(&key, &salt, label, &mut out).unwrap();
        assert_eq!(out, expected, "label {label}");
    }
}

#[test]
fn rfc_3711_appendix_b_2_counter_mode() {
    let cipher = CmSha1Cipher {
        aes: aes::Aes128Enc::new_from_slice(&hex("2B7E151628AED2A6ABF7158809CF4F3C")).unwrap(),
        hmac: <Hmac<Sha1> as KeyInit>::new_from_slice(&[0; 20]).unwrap(),
        salt: hex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD").try_into().unwrap(),
    };
    let mut stream = vec![0; 48];
    cipher.stream(0, 0).apply_keystream(&mut stream);
    assert_eq!(
        stream,
        hex(
            "E03EAD0935C95E80E166B16DD92B4EB4 D23513162B02D0F72A43A2FE4A5F97AB 41E95B3BB0A2E8DD477901E4FCA894C0"
        )
    );
}

/// A session whose session keys (not master keys) are those of RFC 7714 section 16 and 17.
fn rfc_7714(key_len: usize) -> (SrtpSender, SrtpReceiver) {
    let profile = if key_len == 16 {
        SrtpProfile::AeadAes128Gcm
    } else {
        SrtpProfile::AeadAes256Gcm
    };
    let key: Vec<u8> = (0..key_len as u8).collect();
    let cipher = || Cipher::Gcm(GcmCipher::new(&key, *b"Quid pro quo").unwrap());
    let sender = SrtpSender {
        profile,
        rtp: cipher(),
        rtcp: cipher(),
        next_rtcp_index: 0x5d4,
    };
    let receiver = SrtpReceiver {
        profile,
        rtp: cipher(),
        rtcp: cipher(),
        sources: Vec::new(),
        rtcp_sources: Vec::new(),
    };
    (sender, receiver)
}

#[test]
fn rfc_7714_section_16_rtp() {
    let plain = hex(
        "8040f17b 8041f8d3 5501a0b2 47616c6c 69612065 7374206f 6d6e6973 20646976 69736120 696e2070 \
         61727465 73207472 6573",
    );
    for (key_len, expected) in [
        (
            16,
            "f24de3a3 fb34de6c acba861c 9d7e4bca be633bd5 0d294e6f 42a5f47a 51c7d19b 36de3adf 8833\
             899d7f27 beb16a91 52cf765e e4390cce",
        ),
        (
            32,
            "32b1de78 a822fe12 ef9f78fa 332e33aa b1801238 9a58e2f3 b50b2a02 76ffae0f 1ba63799 b87b\
             7aa3db36 dfffd6b0 f9bb7878 d7a76c13",
        ),
    ] {
        let (mut sender, mut receiver) = rfc_7714(key_len);
        let mut out = Vec::new();
        sender.seal_rtp(0xf17b, &plain[..12], &plain[12..], &mut out);
        assert_eq!(out, [&plain[..12], &hex(expected)].concat());
        assert_eq!(
            open(&mut receiver, &out),
            Ok((plain[12..].to_vec(), 0xf17b))
        );
    }
}

#[test]
fn rfc_7714_section_17_rtcp() {
    let plain = hex(
        "81c8000d 4d617273 4e545031 4e545032 52545020 0000042a 0000e930 4c756e61 deadbeef deadbeef \
         deadbeef deadbeef deadbeef",
    );
    let (mut sender, mut receiver) = rfc_7714(16);
    let mut out = Vec::new();
    sender.seal_rtcp(&plain, &mut out);
    assert_eq!(
        out,
        hex(
            "81c8000d 4d617273 63e94885 dcdab67c a727d766 2f6b7e99 7ff5c0f7 6c06f32d c676a5f1 730d6fda \
             4ce09b46 86303ded 0bb9275b c84aa458 96cf4d2f c5abf872 45d9eade 800005d4"
        )
    );
    let length = receiver.open_rtcp(&mut out).unwrap();
    assert_eq!(out[..length], plain);
}

#[test]
fn payload_in_two_parts_equals_payload_in_one() {
    for profile in PROFILES {
        for cut in [0, 1, 2, 6, 16, 17, 100] {
            let payload: Vec<u8> = (0..100).collect();
            let (mut sender, _) = pair(profile);
            let whole = sealed(&mut sender, 7, 70_000, &payload);
            let mut out = vec![1, 2, 3];
            out.extend_from_slice(&header(7, 70_000_u64 as u16));
            sender.seal_rtp_parts(70_000, 3, &payload[..cut], &payload[cut..], &mut out);
            assert_eq!(out[3..], whole, "{profile:?} cut at {cut}");
            assert_eq!(whole.len(), 12 + payload.len() + profile.rtp_overhead());
        }
    }
}

#[test]
fn every_profile_round_trips_across_a_rollover() {
    for profile in PROFILES {
        let (mut sender, mut receiver) = pair(profile);
        for index in [65_533_u64, 65_535, 65_534, 65_537, 65_536, 98_000] {
            let packet = sealed(&mut sender, 5, index, &index.to_be_bytes());
            assert_ne!(packet[12..20], index.to_be_bytes());
            assert_eq!(
                open(&mut receiver, &packet),
                Ok((index.to_be_bytes().to_vec(), index)),
                "{profile:?}"
            );
        }
        for payload in [&[][..], &[1], &[2; 1400]] {
            let packet = sealed(&mut sender, 6, payload.len() as u64, payload);
            assert_eq!(open(&mut receiver, &packet).unwrap().0, payload);
        }
    }
}

#[test]
fn replays_and_packets_before_the_window_are_refused() {
    for profile in PROFILES {
        let (mut sender, mut receiver) = pair(profile);
        let old = sealed(&mut sender, 5, 1_000, b"old");
        let edge = sealed(&mut sender, 5, 1_001, b"edge");
        let first = sealed(&mut sender, 5, 1_128, b"first");
        open(&mut receiver, &first).unwrap();
        assert_eq!(open(&mut receiver, &first), Err(SrtpError::Replay));
        assert_eq!(open(&mut receiver, &old), Err(SrtpError::Replay));
        assert!(open(&mut receiver, &edge).is_ok());
        assert_eq!(open(&mut receiver, &edge), Err(SrtpError::Replay));
        let far = sealed(&mut sender, 5, 1_128 + 5_000, b"far");
        open(&mut receiver, &far).unwrap();
        assert_eq!(open(&mut receiver, &first), Err(SrtpError::Replay));
    }
}

#[test]
fn damaged_packets_are_refused_and_leave_no_state() {
    for profile in PROFILES {
        let (mut sender, mut receiver) = pair(profile);
        let packet = sealed(&mut sender, 5, 9, b"payload");
        for at in [1, 4, 11, 12, packet.len() - 1] {
            let mut damaged = packet.clone();
            damaged[at] ^= 1;
            assert_eq!(
                open(&mut receiver, &damaged),
                Err(SrtpError::Authentication),
                "{profile:?} byte {at}"
            );
        }
        assert_eq!(receiver.sources(), []);
        for length in 12..12 + profile.rtp_overhead() {
            assert_eq!(
                open(&mut receiver, &packet[..length]),
                Err(SrtpError::Truncated)
            );
        }
        assert!(open(&mut receiver, &packet).is_ok());
        assert_eq!(receiver.sources().len(), 1);
    }
}

#[test]
fn control_packets_round_trip_and_count() {
    for profile in PROFILES {
        let (mut sender, mut receiver) = pair(profile);
        sender.set_next_rtcp_index(0x7fff_ffff);
        for (length, index) in [(8, 0x7fff_ffff_u32), (28, 0)] {
            let plain: Vec<u8> = (0..length).map(|byte| byte as u8 | 0x80).collect();
            assert_eq!(sender.next_rtcp_index(), index);
            let mut out = vec![0];
            sender.seal_rtcp(&plain, &mut out);
            let mut packet = out.split_off(1);
            assert_eq!(packet.len(), length + profile.rtcp_overhead());
            let copy = packet.clone();
            // A counter that wraps looks like a replay from the distant past; use a fresh receiver then.
            let (_, mut fresh) = pair(profile);
            let receiver = if index == 0 {
                &mut fresh
            } else {
                &mut receiver
            };
            let opened = receiver.open_rtcp(&mut packet).unwrap();
            assert_eq!(packet[..opened], plain);
            assert_eq!(
                receiver.open_rtcp(&mut copy.clone()),
                Err(SrtpError::Replay)
            );
            assert_eq!(receiver.rtcp_sources().len(), 1);
        }
    }
}

#[test]
fn control_packets_must_be_encrypted_and_intact() {
    for profile in PROFILES {
        let (mut sender, mut receiver) = pair(profile);
        let mut packet = Vec::new();
        sender.seal_rtcp(&[0x80, 201, 0, 1, 0, 0, 0, 5], &mut packet);
        let word_at = packet.len()
            - if profile == SrtpProfile::AesCm128HmacSha1_80 {
                14
            } else {
                4
            };
        let mut plain = packet.clone();
        plain[word_at] &= 0x7f;
        assert_eq!(receiver.open_rtcp(&mut plain), Err(SrtpError::Unencrypted));
        let mut damaged = packet.clone();
        damaged[1] ^= 1;
        assert_eq!(
            receiver.open_rtcp(&mut damaged),
            Err(SrtpError::Authentication)
        );
        for length in 0..packet.len() {
            assert!(receiver.open_rtcp(&mut packet[..length].to_vec()).is_err());
        }
        assert!(receiver.open_rtcp(&mut packet).is_ok());
    }
}

#[test]
fn sources_are_bounded() {
    let (mut sender, mut receiver) = pair(SrtpProfile::AeadAes128Gcm);
    for ssrc in 0..SrtpReceiver::MAX_SOURCES as u32 {
        let packet = sealed(&mut sender, ssrc, 1, b"x");
        open(&mut receiver, &packet).unwrap();
    }
    let packet = sealed(&mut sender, 1 << 20, 1, b"x");
    assert_eq!(open(&mut receiver, &packet), Err(SrtpError::TooManySources));
    let packet = sealed(&mut sender, 3, 2, b"x");
    assert!(open(&mut receiver, &packet).is_ok());
}

#[test]
fn resumed_receiver_keeps_rollover_and_window() {
    let (mut sender, mut receiver) = pair(SrtpProfile::AeadAes128Gcm);
    for index in [65_535, 65_536] {
        open(&mut receiver, &sealed(&mut sender, 5, index, b"x")).unwrap();
    }
    let (_, mut resumed) = pair(SrtpProfile::AeadAes128Gcm);
    resumed.resume(receiver.sources(), receiver.rtcp_sources());
    assert_eq!(
        open(&mut resumed, &sealed(&mut sender, 5, 65_536, b"x")),
        Err(SrtpError::Replay)
    );
    assert_eq!(
        open(&mut resumed, &sealed(&mut sender, 5, 65_537, b"x"))
            .unwrap()
            .1,
        65_537
    );
}

#[test]
fn keys_of_the_wrong_length_are_refused() {
    for profile in PROFILES {
        let material = vec![0; profile.keying_material_len() + 1];
        assert_eq!(
            keys_from_exporter(profile, &material, true).err(),
            Some(SrtpError::Key)
        );
        assert_eq!(
            SrtpSender::new(profile, &[0; 15], &[0; 12]).err(),
            Some(SrtpError::Key)
        );
        assert_eq!(SrtpProfile::from_dtls_id(profile.dtls_id()), Some(profile));
    }
    assert_eq!(SrtpProfile::from_dtls_id(2), None);
}

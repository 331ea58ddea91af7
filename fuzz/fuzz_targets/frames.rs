//! Any bytes, in any pieces, are frames or an error; a frame that was read is the same again when it was
//! written and read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outsock_vmrpc::Decoder;

fuzz_target!(|pieces: Vec<&[u8]>| {
    let mut decoder = Decoder::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Err(_) => return,
                Ok(None) => break,
                Ok(Some(frame)) => {
                    let mut bytes = Vec::new();
                    frame.encode(&mut bytes).expect("what was read can be written");
                    let mut again = Decoder::new();
                    again.push(&bytes);
                    assert_eq!(again.next(), Ok(Some(frame)));
                }
            }
        }
    }
});

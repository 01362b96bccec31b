//! Thumbnails: what comes of a form, of a body, and of what is no picture.

use crate::place::Place;
use anyhow::{Context, Result, ensure};

const NAME: &str = "thumbnail";

/// Pictures with something to them: Exif's orientation 6 is a camera held upright.
const MADE: &str = "\
from PIL import Image
exif = Image.Exif()
exif[0x0112] = 6
Image.new('RGB', (256, 128), 'red').save('upright.jpeg', exif=exif)
Image.new('RGBA', (6324, 6324), (0, 128, 0, 128)).save('largest.png', compress_level=1)
Image.new('P', (400, 200)).save('palette.gif')
";

/// Width and height of a PNG: behind the signature and the name of its first part, two numbers of four bytes.
fn png_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let number = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    bytes.starts_with(b"\x89PNG\r\n\x1a\n").then(|| Some((number(16)?, number(20)?)))?
}

/// The same of a JPEG: in the part that begins a frame, which comes before the picture's data.
fn jpeg_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut at = 2;
    while bytes.get(at)? == &0xff {
        let number = |at: usize| Some(u32::from(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?)));
        if (0xc0..=0xc2).contains(bytes.get(at + 1)?) {
            return Some((number(at + 7)?, number(at + 5)?));
        }
        at += 2 + usize::try_from(number(at + 2)?).ok()?;
    }
    None
}

/// The checksum of a part of a PNG.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uploaded_picture_becomes_small() -> Result<()> {
    let place = Place::of(NAME, None, None)?;
    let (dev, _) = place.by_its_readme(NAME).await?;
    // 320 by 200 pixels, with the longer side made 64.
    let small = std::fs::read(place.path().join("small.jpeg"))?;
    ensure!(jpeg_size(&small) == Some((64, 40)), "{} bytes: {:?}", small.len(), jpeg_size(&small));

    let photo = std::fs::read(place.example(NAME).join("photo.png"))?;
    ensure!(png_size(&photo) == Some((320, 200)));
    let answer = dev.post(NAME, photo.clone()).await?;
    ensure!(answer.status == 200 && answer.header("content-type") == "image/jpeg", "{answer}");
    ensure!(jpeg_size(&answer.body) == Some((128, 80)), "{:?}", jpeg_size(&answer.body));

    // Held upright, which the file only says; and as large as fits, unpacked to 160 MB by a function of 512.
    place.shell()?.paste(&format!("/usr/bin/python3 - <<'END'\n{MADE}END\n")).await?;
    let answer = dev.post(NAME, std::fs::read(place.path().join("upright.jpeg"))?).await?;
    ensure!(jpeg_size(&answer.body) == Some((64, 128)), "{:?}", jpeg_size(&answer.body));
    ensure!(!answer.body.windows(4).any(|bytes| bytes == b"Exif"), "metadata was left");
    let answer = dev.post(NAME, std::fs::read(place.path().join("largest.png"))?).await?;
    ensure!(answer.status == 200 && png_size(&answer.body) == Some((128, 128)), "{answer}");
    let answer = dev.post(NAME, std::fs::read(place.path().join("palette.gif"))?).await?;
    ensure!(answer.status == 200 && jpeg_size(&answer.body) == Some((128, 64)), "{answer}");

    // A picture of one clear pixel stays clear, and is not made larger.
    let clear = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";
    let clear = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, clear)?;
    let answer = dev.post(NAME, clear).await?;
    ensure!(answer.header("content-type") == "image/png" && png_size(&answer.body) == Some((1, 1)), "{answer}");

    // One that says that it is enormous is refused by its head, before any of it is unpacked; the rest are no pictures.
    let mut enormous = photo.clone();
    enormous.splice(16..24, [0, 0, 0x40, 0, 0, 0, 0x40, 0]);
    let sum = crc32(&enormous[12..29]).to_be_bytes();
    enormous.splice(29..33, sum);
    let half = photo.get(..photo.len() / 2).context("no photo")?.to_vec();
    let cases = [(Vec::new(), 400), (b"no picture".to_vec(), 415), (half, 415), (enormous, 413)];
    for (body, status) in cases {
        let answer = dev.post(NAME, body).await?;
        ensure!(answer.status == status, "{status}: {answer}");
    }
    for size in ["0", "15", "1025", "x", "-64", "%D9%A3%D9%A2"] {
        let target = dev.target(NAME, &format!("?size={size}"));
        let answer = target.send(target.post(1, photo.clone())).await?;
        ensure!(answer.status == 400, "{size}: {answer}");
    }
    ensure!(dev.started(NAME) == 1, "an instance ended");
    dev.end()
}

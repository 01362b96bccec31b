//! Kubernetes quantities as far as functions use them: memory in whole MiB, cpu in thousandths.

/// A text that is no usable quantity; says what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not of the form.
    #[error("{0:?} is not a quantity: write for example {1}")]
    Form(String, &'static str),
    /// Outside what a function may have.
    #[error("{value} is outside {min} to {max}")]
    Range {
        /// What was written.
        value: String,
        /// Least.
        min: &'static str,
        /// Most.
        max: &'static str,
    },
}

const MEMORY_EXAMPLE: &str = "256Mi, 1Gi or 512M";
const CPU_EXAMPLE: &str = "100m, 0.5 or 2";

/// Memory in MiB, rounded up: 16Mi (a container needs some) to 1Ti.
///
/// # Errors
/// When the text is no quantity, or outside the range.
pub fn memory_mib(text: &str) -> Result<u32, QuantityError> {
    let form = || QuantityError::Form(text.into(), MEMORY_EXAMPLE);
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u128 = text[..digits].parse().map_err(|_| form())?;
    let unit: u128 = match &text[digits..] {
        "" => 1,
        "k" => 1000,
        "M" => 1000_u128.pow(2),
        "G" => 1000_u128.pow(3),
        "T" => 1000_u128.pow(4),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return Err(form()),
    };
    let mib = number.checked_mul(unit).ok_or_else(form)?.div_ceil(1 << 20);
    match u32::try_from(mib) {
        Ok(mib) if (16..=1 << 20).contains(&mib) => Ok(mib),
        _ => Err(QuantityError::Range { value: text.into(), min: "16Mi", max: "1Ti" }),
    }
}

/// Cpu in thousandths, 1m to 256.
///
/// # Errors
/// When the text is no quantity, or outside the range.
pub fn cpu_millis(text: &str) -> Result<u32, QuantityError> {
    let form = || QuantityError::Form(text.into(), CPU_EXAMPLE);
    let number = |t: &str| -> Result<u64, QuantityError> {
        if t.is_empty() || t.len() > 12 || !t.bytes().all(|b| b.is_ascii_digit()) {
            Err(form())
        } else {
            t.parse().map_err(|_| form())
        }
    };
    let millis = if let Some(whole) = text.strip_suffix('m') {
        number(whole)?
    } else if let Some((whole, fraction)) = text.split_once('.') {
        if fraction.is_empty() || fraction.len() > 3 {
            return Err(form());
        }
        number(whole)? * 1000 + number(&format!("{fraction:0<3}"))?
    } else {
        number(text)? * 1000
    };
    match u32::try_from(millis) {
        Ok(millis) if (1..=256_000).contains(&millis) => Ok(millis),
        _ => Err(QuantityError::Range { value: text.into(), min: "1m", max: "256" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_kubernetes_reads_it() {
        for (text, mib) in
            [("256Mi", 256), ("1Gi", 1024), ("1Ti", 1 << 20), ("512M", 489), ("16777216", 16), ("20000000", 20)]
        {
            assert_eq!(memory_mib(text), Ok(mib), "{text}");
        }
        for text in ["", "Mi", "1.5Gi", "15Mi", "2Ti", "1e9", "-1Mi", "99999999999999999999999999999999999999999Ti"] {
            assert!(memory_mib(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cpu_is_read_as_kubernetes_reads_it() {
        for (text, millis) in
            [("100m", 100), ("1", 1000), ("0.5", 500), ("0.25", 250), ("1.005", 1005), ("256", 256_000)]
        {
            assert_eq!(cpu_millis(text), Ok(millis), "{text}");
        }
        for text in ["", "m", "0", "0m", "257", "0.0005", "1.", ".5", "1.5m", "+1"] {
            assert!(cpu_millis(text).is_err(), "{text}");
        }
    }
}

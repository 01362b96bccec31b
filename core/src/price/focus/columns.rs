//! The columns of a FOCUS row, by version of the specification.

use super::{Export, Row, RowCharge, meter, reservation, unit};
use crate::price::cost::Item;
use crate::price::exact::Exact;
use crate::price::tiers::Slice;
use crate::table::{Column, Kind, Value};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A version of the specification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 1.2, with the providers' columns of 1.3 beside its own, so that readers of either find theirs.
    #[default]
    V1_2,
    /// 1.3: the same columns.
    V1_3,
    /// 1.4: without ProviderName and PublisherName, with InvoiceDetailId.
    V1_4,
}

impl Version {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::V1_2, Self::V1_3, Self::V1_4];

    /// Its number, as it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
            Self::V1_4 => "1.4",
        }
    }

    /// The version of a number.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.name() == name)
    }
}

/// Who sells, makes, hosts and invoices: the platform is all of it to a tenant.
const PLATFORM: &str = "Dormouse";
/// What is sold.
const SERVICE: &str = "Dormouse Functions";

/// Digits after the point: of an amount 13 of a GiB-second and 12 of a price.
const COST: Kind = Kind::Decimal { scale: 25 };
const QUANTITY: Kind = Kind::Decimal { scale: 13 };
const PRICE: Kind = Kind::Decimal { scale: 12 };

/// Where a column is, and what a row has in it.
struct Field {
    column: Column,
    /// The first and the last version that has it.
    versions: (Version, Version),
    value: for<'a> fn(&'a Export, &'a Row<'_>) -> Value<'a>,
}

const fn field(name: &'static str, kind: Kind, value: for<'a> fn(&'a Export, &'a Row<'_>) -> Value<'a>) -> Field {
    let column = Column { name, kind, nullable: false };
    Field { column, versions: (Version::V1_2, Version::V1_4), value }
}

impl Field {
    /// A row may have nothing in it.
    const fn or_null(mut self) -> Self {
        self.column.nullable = true;
        self
    }

    /// Only these versions have it.
    const fn of(mut self, first: Version, last: Version) -> Self {
        self.versions = (first, last);
        self
    }
}

/// The columns of a version, in order: its own by name, then ours.
pub fn columns(version: Version) -> impl Iterator<Item = Column> {
    fields(version).map(|field| field.column)
}

/// What a row has in each column of a version, in the same order.
pub fn values<'a>(export: &'a Export, row: &'a Row<'_>, version: Version) -> impl Iterator<Item = Value<'a>> {
    fields(version).map(move |field| (field.value)(export, row))
}

fn fields(version: Version) -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().filter(move |field| (field.versions.0..=field.versions.1).contains(&version))
}

static FIELDS: [Field; 47] = [
    field("BilledCost", COST, |_, row| Value::Decimal(row.cost)),
    field("BillingAccountId", Kind::Text, |export, _| export.period.tenant.as_str().into()),
    field("BillingAccountName", Kind::Text, |export, _| export.period.tenant.as_str().into()),
    field("BillingCurrency", Kind::Text, |export, _| export.plan.currency.as_str().into()),
    field("BillingPeriodEnd", Kind::Time, |export, _| hour(export.period.hours.end)),
    field("BillingPeriodStart", Kind::Time, |export, _| hour(export.period.hours.start)),
    field("CapacityReservationId", Kind::Text, |_, row| {
        let of = row.item().and_then(reservation).and(row.resource);
        of.map(|f| format!("{}/{}/{}/warm", f.namespace, f.name, f.uid)).into()
    })
    .or_null(),
    field("CapacityReservationStatus", Kind::Text, |_, row| row.item().and_then(reservation).into()).or_null(),
    field("ChargeCategory", Kind::Text, |_, row| row.category().into()),
    // A reversal within a month that is not billed yet is none: of a closed one it is in the month's correction.
    field("ChargeClass", Kind::Text, |_, row| {
        matches!(row.charge, RowCharge::Correction).then_some("Correction").into()
    })
    .or_null(),
    field("ChargeDescription", Kind::Text, |export, row| row.description(export).into()),
    field(
        "ChargeFrequency",
        Kind::Text,
        |_, row| {
            if row.item().is_some() { "Usage-Based".into() } else { "One-Time".into() }
        },
    ),
    field("ChargePeriodEnd", Kind::Time, |_, row| hour(row.hours.end)),
    field("ChargePeriodStart", Kind::Time, |_, row| hour(row.hours.start)),
    field("ConsumedQuantity", QUANTITY, |_, row| row.quantity()).or_null(),
    field("ConsumedUnit", Kind::Text, |export, row| row.unit(export)).or_null(),
    field("ContractedCost", COST, |_, row| Value::Decimal(row.cost)),
    field("ContractedUnitPrice", PRICE, |_, row| row.price()).or_null(),
    field("EffectiveCost", COST, |_, row| Value::Decimal(row.cost)),
    field("HostProviderName", Kind::Text, |_, _| PLATFORM.into()),
    field("InvoiceDetailId", Kind::Text, |export, row| row.invoice_detail(export).into())
        .or_null()
        .of(Version::V1_4, Version::V1_4),
    field("InvoiceId", Kind::Text, |export, _| export.period.invoice.as_deref().into()).or_null(),
    field("InvoiceIssuerName", Kind::Text, |_, _| PLATFORM.into()),
    field("ListCost", COST, |_, row| Value::Decimal(row.cost)),
    field("ListUnitPrice", PRICE, |_, row| row.price()).or_null(),
    field("PricingCategory", Kind::Text, |_, row| row.used().map(|_| "Standard").into()).or_null(),
    field("PricingQuantity", QUANTITY, |_, row| row.quantity()).or_null(),
    field("PricingUnit", Kind::Text, |export, row| row.unit(export)).or_null(),
    field("ProviderName", Kind::Text, |_, _| PLATFORM.into()).of(Version::V1_2, Version::V1_3),
    field("PublisherName", Kind::Text, |_, _| PLATFORM.into()).of(Version::V1_2, Version::V1_3),
    field("ResourceId", Kind::Text, |_, row| {
        row.resource.map(|f| format!("{}/{}/{}", f.namespace, f.name, f.uid)).into()
    })
    .or_null(),
    field("ResourceName", Kind::Text, |_, row| row.resource.map(|f| f.name.as_str()).into()).or_null(),
    field("ResourceType", Kind::Text, |_, row| row.resource.map(|_| "Function").into()).or_null(),
    field("ServiceCategory", Kind::Text, |_, _| "Compute".into()),
    field("ServiceName", Kind::Text, |_, _| SERVICE.into()),
    field("ServiceProviderName", Kind::Text, |_, _| PLATFORM.into()),
    field("ServiceSubcategory", Kind::Text, |_, _| "Serverless Compute".into()),
    field("SkuId", Kind::Text, |_, row| row.item().map(Item::name).into()).or_null(),
    field("SkuMeter", Kind::Text, |_, row| row.item().map(meter).into()).or_null(),
    field("SkuPriceDetails", Kind::Text, |export, row| {
        let details = |slice: &Slice| serde_json::json!({"x_PricePlan": export.plan.name, "x_Tier": slice.tier});
        row.slice().map(|slice| details(slice).to_string()).into()
    })
    .or_null(),
    field("SkuPriceId", Kind::Text, |export, row| row.sku_price(export).into()).or_null(),
    field("SubAccountId", Kind::Text, |_, row| row.resource.map(|f| f.namespace.as_str()).into()).or_null(),
    field("SubAccountName", Kind::Text, |_, row| row.resource.map(|f| f.namespace.as_str()).into()).or_null(),
    field("x_ColdStarts", Kind::Integer, |_, row| row.counts.map_or(Value::Null, |c| Value::Integer(c.cold))).or_null(),
    field("x_RecordCount", Kind::Integer, |_, row| row.counts.map_or(Value::Null, |c| Value::Integer(c.calls)))
        .or_null(),
    // The line of the statement is SkuId's, in this tier: 0 is what is free.
    field("x_StatementTier", Kind::Integer, |_, row| {
        row.slice().map_or(Value::Null, |slice| Value::Integer(line_tier(slice)))
    })
    .or_null(),
    field("x_UnmeteredCalls", Kind::Integer, |_, row| row.counts.map_or(Value::Null, |c| Value::Integer(c.unmetered)))
        .or_null(),
];

pub(super) fn hour(hour: u32) -> Value<'static> {
    Value::Time(i64::from(hour) * 3_600_000_000)
}

fn line_tier(slice: &Slice) -> u64 {
    if slice.free { 0 } else { slice.tier.into() }
}

impl Row<'_> {
    fn parts(&self) -> Option<(Item, &Slice)> {
        match &self.charge {
            RowCharge::Usage { item, slice } | RowCharge::Credit { item, slice } => Some((*item, slice)),
            RowCharge::Rounding | RowCharge::Late | RowCharge::Reversal | RowCharge::Correction => None,
        }
    }

    fn item(&self) -> Option<Item> {
        self.parts().map(|(item, _)| item)
    }

    fn slice(&self) -> Option<&Slice> {
        self.parts().map(|(_, slice)| slice)
    }

    /// Of what was used; credits and adjustments have neither quantity nor price.
    fn used(&self) -> Option<(Item, &Slice)> {
        self.parts().filter(|_| matches!(self.charge, RowCharge::Usage { .. }))
    }

    fn category(&self) -> &'static str {
        match self.charge {
            RowCharge::Usage { .. } => "Usage",
            RowCharge::Credit { .. } => "Credit",
            RowCharge::Rounding | RowCharge::Late | RowCharge::Reversal | RowCharge::Correction => "Adjustment",
        }
    }

    fn quantity(&self) -> Value<'static> {
        self.used().map_or(Value::Null, |(_, slice)| Value::Decimal(slice.quantity.into()))
    }

    fn price(&self) -> Value<'static> {
        self.used().map_or(Value::Null, |(_, slice)| Value::Decimal(Exact::of(slice.price).into()))
    }

    fn unit(&self, export: &Export) -> Value<'static> {
        self.used().map(|(item, _)| unit(item, export.plan.memory_unit).0).into()
    }

    fn sku_price(&self, export: &Export) -> Option<String> {
        self.parts().map(|(item, slice)| format!("{}/{}/{}", export.plan.name, item.name(), slice.tier))
    }

    /// The line of the statement.
    fn invoice_detail(&self, export: &Export) -> Option<String> {
        let invoice = export.period.invoice.as_deref()?;
        Some(match &self.charge {
            RowCharge::Usage { item, slice } | RowCharge::Credit { item, slice } => {
                format!("{invoice}/{}/{}", item.name(), line_tier(slice))
            }
            RowCharge::Rounding => format!("{invoice}/{}/1", Item::Rounding.name()),
            RowCharge::Late => format!("{invoice}/late/1"),
            RowCharge::Reversal => format!("{invoice}/reversals/1"),
            RowCharge::Correction => format!("{invoice}/correction/{}", self.month()),
        })
    }

    fn description(&self, export: &Export) -> String {
        let plan = &export.plan;
        let of = self.resource.map(|f| format!("{}/{}", f.namespace, f.name)).unwrap_or_default();
        match &self.charge {
            RowCharge::Usage { item, slice } => {
                let (price, one) = (Exact::of(slice.price), unit(*item, plan.memory_unit).1);
                format!("{} of {of} at {price} {} per {one}", meter(*item), plan.currency)
            }
            RowCharge::Credit { item, .. } => format!("Free of charge: {} of {of}", meter(*item)),
            RowCharge::Rounding => {
                format!("Rounding of the statement of {} for {}", export.period.tenant, self.month())
            }
            RowCharge::Late => format!(
                "What came to {} after its statement was closed: a later statement of {} has it",
                self.month(),
                export.period.tenant
            ),
            RowCharge::Reversal => {
                format!("Calls of {} that were taken back in {}", export.period.tenant, self.month())
            }
            RowCharge::Correction => {
                format!("What {} cost {} beside what was billed for it", self.month(), export.period.tenant)
            }
        }
    }

    /// The month that its time begins in, as in `2026-11`.
    fn month(&self) -> String {
        let start = Timestamp::from_second(i64::from(self.hours.start) * 3600).unwrap_or_default();
        start.to_zoned(TimeZone::UTC).strftime("%Y-%m").to_string()
    }
}

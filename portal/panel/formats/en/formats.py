"""How Django's own pages write moments: as all other pages do, in UTC, and to the second."""

DATE_FORMAT = SHORT_DATE_FORMAT = "Y-m-d"
TIME_FORMAT = "H:i:s"
DATETIME_FORMAT = SHORT_DATETIME_FORMAT = "Y-m-d H:i:s"
MONTH_DAY_FORMAT = "j F"
YEAR_MONTH_FORMAT = "F Y"

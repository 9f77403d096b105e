"""What every framework with devices needs, once: processes that agree, boxes, budgets. No framework is named here."""

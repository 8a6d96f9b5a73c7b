"""What people look at: answers now, reports and web pages to come."""
